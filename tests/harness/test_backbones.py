import json

import pytest

from petl_bench import backbones
from petl_bench.case import Attention, Backbone, DType, Workload
from petl_bench.errors import UsageError
from petl_bench.suite import Suite

SHAPE = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
    "num_layers": 3,
}


@pytest.fixture
def config_folder(tmp_path):
    """Factory: a folder `name` with a config.json of a small network and `changes`."""

    def make(name="mine", text=None, **changes):
        folder = tmp_path / name
        folder.mkdir()
        config = {"model_type": "t5", **SHAPE, **changes}
        (folder / "config.json").write_text(json.dumps(config) if text is None else text)
        return str(folder)

    return make


@pytest.mark.parametrize("name", backbones.names())
def test_a_built_in_backbone_has_the_dimensions_of_its_family(name):
    backbone = backbones.find(name, dtype=DType.BF16, attention=Attention.SDPA)
    assert (backbone.name, backbone.dtype, backbone.attention) == (name, "bf16", "sdpa")
    assert backbones.FAMILIES[backbone.family].dims(backbone.config).total_parameters > 0


def test_a_built_in_name_may_be_written_in_capitals():
    assert backbones.find("Llama-3.2-1B") == backbones.find("llama-3.2-1b")


def test_a_folder_is_a_backbone_by_its_own_name_with_the_shape_of_its_config(config_folder):
    backbone = backbones.find(config_folder("mine"))
    assert (backbone.name, backbone.family) == ("mine", "t5")
    assert {key: backbone.config[key] for key in SHAPE} == SHAPE


def test_what_a_config_does_not_say_is_as_transformers_has_it(config_folder):
    backbone = backbones.find(config_folder())
    assert backbone.config["num_decoder_layers"] == SHAPE["num_layers"]
    assert backbone.config["dropout_rate"] == 0.1
    assert backbone.config["feed_forward_proj"] == "relu"


def test_the_same_network_in_another_folder_has_the_same_config(config_folder):
    one = backbones.find(config_folder("one", dropout_rate=0, num_decoder_layers=None))
    other = backbones.find(
        config_folder(
            "other",
            dropout_rate=0.0,
            num_decoder_layers=SHAPE["num_layers"],
            torch_dtype="float16",  # no dimension: what a checkpoint happens to be stored in
            transformers_version="5.0.0",
            task_specific_params={"summarization": {"max_length": 200}},
        )
    )
    assert one.config == other.config
    assert json.dumps(one.config, sort_keys=True) == json.dumps(other.config, sort_keys=True)


def test_a_config_written_by_transformers_gives_the_built_in_backbone(tmp_path):
    from transformers import T5Config

    config = backbones.find("t5-small").config
    T5Config(**config).save_pretrained(tmp_path)
    assert backbones.find(str(tmp_path)).config == config


def test_an_unknown_name_is_told_with_the_nearest_ones():
    with pytest.raises(UsageError, match="'t5-smal'; did you mean t5-small"):
        backbones.find("t5-smal")
    with pytest.raises(UsageError, match="'zzz'; petl-bench backbones lists"):
        backbones.find("zzz")


def test_a_folder_without_a_config_is_told_by_its_path(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*config\.json: No such file"):
        backbones.find(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"t5"', "{}", '{"model": "t5"}', "\x00"])
def test_a_config_that_is_none_is_told_by_its_path(config_folder, text):
    with pytest.raises(UsageError, match=r"config\.json is not a transformers config"):
        backbones.find(config_folder(text=text))


@pytest.mark.parametrize("model_type", ["T5", "no-such", "", None, 5, ["t5"], {}])
def test_an_architecture_that_transformers_does_not_have_is_told(config_folder, model_type):
    with pytest.raises(UsageError, match=r"config\.json.* has .*model_type ") as refused:
        backbones.find(config_folder(model_type=model_type))
    assert repr(model_type) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in SHAPE for value in (-1, 0, "32", 1.5, None, True, [32])),
        ("num_decoder_layers", -2),
        ("num_decoder_layers", "three"),
        ("relative_attention_num_buckets", 0),
        ("dropout_rate", -0.1),
        ("dropout_rate", 1),
        ("dropout_rate", "high"),
        ("dropout_rate", None),
        ("dropout_rate", True),
        ("dropout_rate", float("nan")),
        ("feed_forward_proj", 3),
        ("feed_forward_proj", None),
        ("feed_forward_proj", ""),
        ("feed_forward_proj", "relu-gated-twice"),
        ("tie_word_embeddings", "yes"),
        ("tie_word_embeddings", None),
    ],
)
def test_a_dimension_that_makes_no_sense_is_told_by_field_and_value(config_folder, field, value):
    with pytest.raises(UsageError, match=rf"config\.json: {field} must be") as refused:
        backbones.find(config_folder(**{field: value}))
    assert repr(value) in str(refused.value)
    assert "\n" not in str(refused.value)


BERT = {
    "model_type": "bert",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**BERT, "hidden_size": None}, "hidden_size must be a whole number"),
        ({"model_type": "bert", "vocab_size": 96}, "hidden_size is missing"),
        ({**BERT, "vocab_size": 1}, "vocab_size must be a whole number, at least 3"),
        ({**BERT, "hidden_size": 30}, "hidden_size must be a multiple of num_attention_heads"),
        ({**BERT, "hidden_act": 3}, "hidden_act must be a name"),
        ({**BERT, "hidden_dropout_prob": 1}, "hidden_dropout_prob must be a number from 0"),
        (
            {**BERT, "model_type": "llama", "num_key_value_heads": 3},
            "must be a multiple of num_key",
        ),
        ({**BERT, "model_type": "llama", "head_dim": 7}, "head_dim must be even"),
        ({**BERT, "model_type": "roberta", "max_position_embeddings": 2}, "must be more than 2"),
        ({"model_type": "gpt2"}, "vocab_size is missing"),
        ({"model_type": "gpt2", "vocab_size": 1}, "vocab_size must be a whole number"),
        ({"model_type": "gpt2", "vocab_size": 96, "n_layer": 0}, "num_hidden_layers must be"),
        (
            {"model_type": "gpt2", "vocab_size": 96, "n_embd": 10, "n_head": 3},
            "divisible by num_he",
        ),
        ({"model_type": "vit", "vocab_size": 96}, "neither a language head nor a classifier"),
    ],
)
def test_a_config_without_a_network_is_told_in_a_line(config, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match=message) as refused:
        backbones.find(str(path))
    assert str(refused.value).startswith(f"backbone: {path}: ")
    assert "\n" not in str(refused.value)


def test_a_file_is_a_backbone_by_its_name(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps({**BERT, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    backbone = backbones.find(str(path))
    assert (backbone.name, backbone.family) == ("small", "bert")
    assert backbone.config["num_labels"] == 3


@pytest.mark.parametrize(
    ("model_type", "architecture", "family"),
    [
        ("gpt2", None, "auto-causal-lm"),
        ("electra", "ElectraForMaskedLM", "auto-sequence-classification"),
        ("electra", "ElectraForCausalLM", "auto-causal-lm"),
        ("distilbert", None, "auto-sequence-classification"),
        ("pegasus", None, "auto-seq2seq-lm"),
    ],
)
def test_any_other_architecture_gets_the_head_that_it_is_used_with(
    model_type, architecture, family
):
    config = {"model_type": model_type, "architectures": architecture and [architecture]}
    assert backbones.auto.family_of(config) == family


def test_another_architecture_keeps_what_may_shape_it_nested_or_not(tmp_path):
    path = tmp_path / "config.json"
    config = {"model_type": "gpt2", "vocab_size": 96, "n_embd": 32, "n_head": 4, "n_layer": 2}
    path.write_text(
        json.dumps(
            {**config, "rope_parameters": {"factor": [1, 2.5]}, "transformers_version": "4.0.0"}
        )
    )
    found = backbones.find(str(path))
    assert found.config == {**config, "rope_parameters": {"factor": [1, 2.5]}}
    assert Backbone.model_validate_json(found.model_dump_json()) == found


def test_a_repository_of_the_hub_is_asked_for_its_config(tmp_path, monkeypatch):
    import huggingface_hub

    path = tmp_path / "config.json"
    path.write_text(json.dumps(BERT))
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a: asked.append(a) or str(path))
    backbone = backbones.find("owner/small-bert")
    assert asked == [("owner/small-bert", "config.json")]
    assert (backbone.name, backbone.family) == ("small-bert", "bert")

    def offline(*_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no way out\nat all")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(UsageError, match=r"not give its config\.json: no way out$"):
        backbones.find("owner/small-bert")


def test_one_question_is_one_case_however_its_target_was_asked_for():
    bert, t5 = backbones.find("bert-base"), backbones.find("t5-base")
    asked = [Workload(), Workload(target_length_tokens=9), Workload(target_length_tokens=None)]
    asked.append(Workload(target_length_tokens=600))  # more than BERT has positions
    assert {backbones.fitted(bert, w).target_length_tokens for w in asked} == {None}
    assert [backbones.fitted(t5, w).target_length_tokens for w in asked] == [3, 9, 3, 600]
    plan = Suite(
        methods=("full",),
        backbone={"name": ["bert-base"]},
        workload={"target_length_tokens": [3, 5]},
    ).plan()
    assert len(plan) == 1


@pytest.mark.parametrize(
    ("name", "longest"), [("bert-base", 512), ("roberta-base", 512), ("bart-large", 1024)]
)
def test_sequences_longer_than_there_are_positions_are_refused(name, longest):
    backbone = backbones.find(name)
    backbones.fitted(backbone, Workload(source_length_tokens=longest))
    with pytest.raises(UsageError, match=f"source_length_tokens: {name} takes at most {longest}"):
        backbones.fitted(backbone, Workload(source_length_tokens=longest + 1))
