"""Architectures without a file of ours, from their configuration."""

import json

import pytest
import torch
import transformers
from petl_bench.methods.lst import attach_lst
from torch.nn import functional as F

from petl_bench import backbones, method_spec, registry
from petl_bench.assembly import assemble, make_batch, unsupported
from petl_bench.backbones import FAMILIES
from petl_bench.cards import CARDS
from petl_bench.case import Case, Workload
from petl_bench.errors import UsageError
from petl_bench.method import trainable_parameters
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.profiler import META, simulate

DECODER = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
ENCODER = {**DECODER, "max_position_embeddings": 40, "pad_token_id": 0}
FUSED = {"vocab_size": 96, "n_embd": 32, "n_head": 4, "n_layer": 2}
SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
NEOX = {"model_type": "gpt_neox", **DECODER, "hidden_size": 64}
DEBERTA = {
    "model_type": "deberta-v2",
    **ENCODER,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
DISTILBERT = {"vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
VISION = {
    "hidden_size": 8,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "intermediate_size": 8,
}
WORKLOAD = Workload(batch_size=2, source_length_tokens=8, target_length_tokens=None)


@pytest.fixture
def ask(tmp_path):
    """Factory: the case of a method on a tiny backbone, as the command line makes it."""

    def make(spec, **config):
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(config))
        backbone = backbones.find(str(path))
        ((_, choice),) = method_spec.parse_specs(spec)
        method = method_spec.fitted(choice, backbone)
        workload = backbones.fitted(backbone, WORKLOAD)
        return Case(backbone=backbone, method=method, workload=workload)

    return make


def closed_form(case):
    method = registry.get(case.method.name)
    config = method_spec.validated_config(method, case.method.config)
    return trainable_parameters(
        method, FAMILIES[case.backbone.family].dims(case.backbone.config), config
    )


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        ({"model_type": "gpt2", **FUSED}, ["c_attn"]),
        ({"model_type": "opt", **DECODER, "ffn_dim": 64, "word_embed_proj_dim": 32}, ["q", "v"]),
        (
            {"model_type": "mamba", "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2},
            ["in_proj", "x_proj", "dt_proj"],
        ),
    ],
)
def test_lora_finds_what_makes_queries_and_values(ask, config, targets):
    case = ask("lora[r=4]", **config)
    assert case.method.config["targets"] == targets
    assert assemble(case, META).trainable_parameters == closed_form(case)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gemma", **DECODER, "head_dim": 8},
        {"model_type": "olmo", **DECODER},
        {"model_type": "stablelm", **DECODER},
        {"model_type": "smollm3", **DECODER, "pad_token_id": 0},
        {"model_type": "xlm-roberta", **ENCODER},
        {"model_type": "electra", **ENCODER, "embedding_size": 32},
        {"model_type": "bloom", **SMALL},
        {"model_type": "falcon", **SMALL},
        {"model_type": "cohere", **DECODER, "pad_token_id": 0},
        {"model_type": "gptj", **FUSED, "rotary_dim": 4},
        {"model_type": "phi", **DECODER, "hidden_size": 64, "num_key_value_heads": 4},
        {"model_type": "starcoder2", **DECODER},
        {"model_type": "ernie", **ENCODER},
    ],
    ids=lambda config: config["model_type"],
)
def test_layers_that_resemble_known_ones_take_a_ladder(ask, config):
    """Counted by the closed form, and a real step of it learns."""
    case = ask("lst[reduction=2]", **config)
    trainee = assemble(case, torch.device("cpu"))
    assert trainee.backbone_parameters == FAMILIES[case.backbone.family].dims(
        case.backbone.config
    ).total_parameters + (trainee.ports.dims.task_head_parameters)
    assert trainee.trainable_parameters == closed_form(case)
    trainee.model(**make_batch(case, torch.device("cpu")))["loss"].backward()
    trained = [p for p in trainee.model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_a_models_own_class_may_be_unknown():
    config = transformers.GemmaConfig(**DECODER, head_dim=8)
    model = transformers.GemmaForCausalLM(config)
    attach_lst(model)
    assert model(input_ids=torch.arange(8)[None]).logits.shape == (1, 8, 96)
    states = transformers.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2)
    with pytest.raises(ValueError, match="no ports for MambaForCausalLM"):
        attach_lst(transformers.MambaForCausalLM(states))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "olmo2", **DECODER},  # norms as wide as all heads
        {"model_type": "mixtral", **DECODER, **EXPERTS},
        {"model_type": "opt", **DECODER, "ffn_dim": 64, "word_embed_proj_dim": 16},  # widened
        {**DEBERTA, "conv_kernel_size": 3},
        {**DEBERTA, "share_att_key": False},  # matrices for positions alone
    ],
)
def test_layers_with_anything_else_in_them_resemble_none(ask, config):
    case = ask("full", **config)
    assert FAMILIES[case.backbone.family].dims(case.backbone.config).stacks == {}
    assert "needs to know the layers" in unsupported(
        case.model_copy(update={"method": ask("lst", **config).method})
    )


@pytest.mark.parametrize("spec", ["adapter[reduction=4]", "prefix[tokens=3]", "prompt[tokens=3]"])
@pytest.mark.parametrize(
    "config",
    [{"model_type": "gpt2", **FUSED}, NEOX, {"model_type": "distilbert", **DISTILBERT}],
    ids=lambda config: config["model_type"],
)
def test_methods_that_meet_layers_meet_those_that_were_read(ask, spec, config):
    case = ask(spec, **config)
    trainee = assemble(case, torch.device("cpu"))
    assert trainee.trainable_parameters == closed_form(case)
    trainee.model(**make_batch(case, torch.device("cpu")))["loss"].backward()
    trained = [p for p in trainee.model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize(
    ("spec", "config", "reason"),
    [
        ("prefix", DEBERTA, "not one that transformers look up by name"),
        ("lst[initialise=magnitude]", {"model_type": "gpt2", **FUSED}, "c_attn is several proj"),
        ("lst[initialise=magnitude]", DEBERTA, "a table of relative positions is not cut"),
        ("lst[reduction=8]", NEOX, "heads of 2, 0 of which turn, which cannot turn in pairs"),
        ("lora[targets=q]", {"model_type": "mamba", **SMALL}, "no projection 'q'"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(ask, spec, config, reason):
    case = ask("full", **config)
    ((_, choice),) = method_spec.parse_specs(spec)
    assert reason in unsupported(case.model_copy(update={"method": choice}))


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"model_type": "gpt2", **FUSED, "n_positions": 40}, 40),
        ({"model_type": "opt", **DECODER, "ffn_dim": 64, "max_position_embeddings": 40}, 40),
        ({"model_type": "xlm-roberta", **ENCODER, "pad_token_id": 1}, 38),
        (NEOX, None),
    ],
)
def test_a_table_of_positions_has_an_end(ask, config, longest):
    case = ask("full", **config)
    assert FAMILIES[case.backbone.family].longest(case.backbone.config) == longest
    if longest is not None:
        with pytest.raises(UsageError, match=f"takes at most {longest}"):
            backbones.fitted(case.backbone, Workload(source_length_tokens=longest + 1))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "xlnet", "vocab_size": 96, "d_model": 32, "n_layer": 1, "n_head": 4},
        {"model_type": "diffllama", **DECODER},
    ],
    ids=lambda config: config["model_type"],
)
def test_parameters_that_know_no_default_device_are_where_the_others_are(ask, config):
    case = ask("full", **config)
    found = simulate(case, CARDS["a100-80gb"])
    model = assemble(case, META).model
    assert found.trainable_parameters == sum(p.numel() for p in model.parameters())
    assert all(p.is_meta for p in model.parameters())


def test_experts_run_whatever_the_router_says(ask):
    case = ask("full", model_type="mixtral", **DECODER, **EXPERTS)
    found = simulate(case, CARDS["a100-80gb"])
    assert found.trainable_parameters == assemble(case, META).total_parameters


def test_a_product_of_grouped_rows_has_the_form_and_flops_of_all_its_rows():
    def product(device):
        rows, experts = torch.rand(6, 8, device=device), torch.rand(3, 8, 16, device=device)
        ends = torch.tensor([2, 5, 6], dtype=torch.int32, device=device)
        return F.grouped_mm(rows, experts, offs=ends)

    real = product("cpu")
    with Ledger() as ledger:
        fake = product("meta")
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
    assert ledger.flops == 2 * 6 * 8 * 16


def test_layers_are_not_dropped_by_chance(ask):
    case = ask(
        "full",
        model_type="m2m_100",
        vocab_size=96,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_layerdrop=0.9,
    )
    config = assemble(case, META).model.config
    assert config.encoder_layerdrop == config.decoder_layerdrop == 0


def test_a_vocabulary_may_be_a_parts(ask):
    text = {**DECODER, "head_dim": 8, "model_type": "gemma3_text"}
    case = ask("full", model_type="gemma3", text_config=text, vision_config=VISION)
    tokens = make_batch(case, torch.device("cpu"))["input_ids"]
    assert tokens.max() < 96
