"""Layers and optimizer states of few bits: every byte by hand, after bitsandbytes' source."""

import pytest
import torch
from torch import nn

from petl_bench.assembly import assemble, unsupported
from petl_bench.case import Backbone, Case, Quantization, Workload
from petl_bench.low_bit.adamw import adamw_8bit
from petl_bench.low_bit.linear import SizedInt8, SizedNf4
from petl_bench.method_spec import parse_specs
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category

META = torch.device("meta")
I, O, N = 64, 128, 4  # noqa: E741


def linear(dtype=torch.bfloat16, *, bias=False):
    made = nn.Linear(I, O, bias=bias, dtype=dtype, device="meta")
    return made.requires_grad_(requires_grad=False)


def held(layer):
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def story(ledger, start=0):
    return [
        ("+" if event >= 0 else "-", ledger.sizes[event if event >= 0 else ~event])
        for event in ledger.events[start:]
    ]


def test_nf4_holds_half_a_byte_a_weight_and_a_maximum_for_64():
    """QLoRA, section 3; 64 * 128 weights: 4,096 bytes, 128 maxima of 4, 16 values of 4."""
    with META:
        assert held(SizedNf4(linear(), double=False)) == {"weight": 4096, "absmax": 512, "code": 64}


def test_double_quantisation_holds_a_byte_a_maximum():
    """128 maxima in bytes, one fp32 for (up to) 256 of these, their mean; a table of 256."""
    with META:
        layer = SizedNf4(linear(), double=True)
    assert held(layer) == {
        "weight": 4096,
        "absmax": 128,
        "absmax_absmax": 4,
        "absmax_mean": 4,
        "absmax_code": 1024,
        "code": 64,
    }


def test_int8_holds_a_byte_a_weight_and_a_maximum_a_row():
    with META:
        assert held(SizedInt8(linear())) == {"weight": I * O, "SCB": 4 * O}


@pytest.mark.parametrize("double", [False, True])
def test_nf4_dequantises_the_whole_weight_in_forward_and_again_in_backward(double):
    """The weight in bf16 16,384 bytes, there only while its product 1,024 is made.

    Of the input nothing is kept. Double quantisation: first the 128 maxima in fp32.
    """
    with META:
        layer = SizedNf4(linear(), double=double)
    x = torch.empty(N, I, dtype=torch.bfloat16, device="meta", requires_grad=True)
    first = [("+", 512), ("-", 512)] if double else []
    with Ledger() as ledger:
        out = layer(x * 1)  # the product is a tensor that only its node could keep
        assert story(ledger) == [
            ("+", 2 * N * I),
            *first,
            ("+", 16384),
            ("+", 2 * N * O),
            ("-", 16384),
            ("-", 2 * N * I),
        ]
        grad, start = torch.empty_like(out), len(ledger.events)
        out.backward(grad)
    assert story(ledger, start)[: 3 + len(first)] == [
        *first,
        ("+", 16384),
        ("+", 2 * N * I),
        ("-", 16384),
    ]


def test_int8_keeps_its_input_and_borrows_rows_of_bytes():
    """LLM.int8() with a threshold for outliers; all of [4, 64] or [4, 128].

    Input in fp16 512; maxima 16, bytes 256, |x| 512, a flag an element 256, any of them 1; sums in
    int32 2,048, the result in fp16 1,024 and in bf16 1,024. The input stays.
    """
    with META:
        layer = SizedInt8(linear())
    x = torch.empty(N, I, dtype=torch.bfloat16, device="meta", requires_grad=True)
    ledger = Ledger()
    ledger.adopt(layer.buffers(), Category.BUFFER)
    loaded = len(ledger.events)
    with ledger:
        out = layer(x * 1)
        made = [size for sign, size in story(ledger, loaded) if sign == "+"]
        assert made == [512, 512, 16, 256, 512, 256, 1, 2048, 1024, 1024]
        assert ledger.live_bytes() == 4 * O + 512 + 1024
        grad, start = torch.empty_like(out), len(ledger.events)
        out.backward(grad)
    made = [size for sign, size in story(ledger, start) if sign == "+"]
    assert made[:3] == [4 * O, 2 * I * O, 2 * N * I]  # scales, the weight, the gradient


def test_8_bit_states_are_bytes_with_a_maximum_for_256_but_for_small_parameters():
    """8,200 elements: 2 * (8,200 + 33 * 4); 100: 2 * 400; two tables of 256 for all."""
    large, small = (nn.Parameter(torch.empty(n, device="meta")) for n in (8200, 100))
    for parameter in (large, small):
        parameter.grad = torch.empty_like(parameter)
    optimizer = adamw_8bit([large, small], lr=1e-3)
    with Ledger() as ledger:
        for _ in range(2):
            optimizer.step()
    assert ledger.live_bytes() == 2 * (8200 + 33 * 4) + 2 * 400 + 2 * 1024
    assert len(ledger.events) == 2 + 4 + 2  # the second step makes and borrows nothing


TINY = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "vocab_size": 96}


def case(spec, quantize, **changes):
    from petl_bench import backbones

    config = {**backbones.find("t5-small").config, **TINY, "num_layers": 1}
    config["num_decoder_layers"] = 1
    backbone = Backbone(name="tiny", family="t5", config=config, quantize=quantize)
    ((_, method),) = parse_specs(spec)
    return Case(backbone=backbone, method=method, workload=Workload(batch_size=2, **changes))


@pytest.mark.parametrize("quantize", Quantization)
@pytest.mark.parametrize("spec", ["lora", "lst[reduction=2,keep=all]"])
def test_a_quantised_backbone_has_as_many_parameters_and_as_many_train(spec, quantize):
    plain, low = (assemble(case(spec, q), META) for q in (None, quantize))
    for count in ("total_parameters", "backbone_parameters", "trainable_parameters"):
        assert getattr(plain, count) == getattr(low, count)


def test_the_head_and_what_transformers_keep_in_fp32_stay():
    model = assemble(case("lora", Quantization.NF4), META).model
    low = {name for name, module in model.named_modules() if isinstance(module, SizedNf4)}
    kinds = {name.removesuffix(".base_layer").rpartition(".")[2] for name in low}
    assert kinds == {"q", "k", "v", "o", "wi"}


@pytest.mark.parametrize("quantize", Quantization)
def test_what_trains_all_of_the_backbone_is_not_for_quantised_weights(quantize):
    assert "frozen" in unsupported(case("full", quantize))
    assert unsupported(case("full", quantize, mode="inference")) is None
    assert unsupported(case("lora", quantize)) is None


@pytest.mark.parametrize("quantize", Quantization)
@pytest.mark.parametrize("spec", ["lora", "lst[reduction=2,keep=all]"])
def test_a_whole_step_runs_and_its_weights_are_smaller(spec, quantize):
    from petl_bench.cards import CARDS
    from petl_bench.profilers.simulated.profiler import simulate

    plain, low = (simulate(case(spec, q), CARDS["t4"]).peak().by_category for q in (None, quantize))
    assert low[Category.PARAMETER] < plain[Category.PARAMETER]
