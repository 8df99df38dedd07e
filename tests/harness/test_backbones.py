import json

import pytest

from petl_bench import backbones
from petl_bench.case import Attention, DType
from petl_bench.errors import UsageError

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
    with pytest.raises(UsageError, match=r"'zzz'; there are: .*t5-base"):
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
