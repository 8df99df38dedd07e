"""Methods that leave the lowest layers alone (the LST paper's figure 6)."""

import pytest

from petl_bench import backbones, method_spec, registry
from petl_bench.assembly import unsupported
from petl_bench.backbones import FAMILIES
from petl_bench.case import Case, Workload
from petl_bench.training import trainable

SPECS = ["adapter[{}]", "lora[{}]", "lora[biases=all,{}]", "bitfit[{}]", "bitfit[terms=norms,{}]"]
PAPER = {"vocab_size": 32_100}


def closed_form(spec, **changes):
    found = backbones.find("t5-base")
    ((_, choice),) = method_spec.parse_specs(spec)
    method = registry.get(choice.name)
    dims = FAMILIES[found.family].dims({**found.config, **changes})
    return method.trainable_parameters(dims, method_spec.validated_config(method, choice.config))


@pytest.mark.parametrize("lower", [1, 4, 5, 7])
@pytest.mark.parametrize("spec", SPECS)
def test_nothing_trains_below_and_the_closed_form_counts_what_does(
    spec, lower, make_tiny_t5, attach
):
    """The tiny stacks have four layers each: 4 leaves the decoder, 7 its last layer."""
    built = attach(spec.format(f"freeze_lower={lower}"), make_tiny_t5())
    trained = trainable(built.model)
    below = [parameter for m in built.ports.below(lower) for parameter in m.parameters()]
    assert below
    assert not {id(parameter) for parameter in below} & {id(parameter) for parameter in trained}
    method = registry.get(spec.partition("[")[0])
    counted = sum(parameter.numel() for parameter in trained)
    assert counted == method.trainable_parameters(built.dims, built.config)


def test_figure_6s_adapters_are_counted_by_hand():
    """Bottlenecks of 74,544 and norms of 768: two of either a layer of the encoder, two
    bottlenecks and three norms one of the decoder, and a final norm a stack."""
    bottleneck, norm = 74_544, 768
    hands = {
        6: 36 * bottleneck + (12 + 36 + 2) * norm,  # layers 6 to 11, the decoder, both final norms
        12: 24 * bottleneck + (36 + 1) * norm,  # the decoder alone
        18: 12 * bottleneck + (18 + 1) * norm,  # its upper half
    }
    for lower, count in hands.items():
        assert closed_form(f"adapter[freeze_lower={lower}]", **PAPER) == count


def test_figure_6s_lora_is_counted_by_hand():
    """49,152 a q or v; an encoder layer has 8,448 biases, a decoder layer 12,288; head 32,100."""
    update, encoder, decoder, head, table = 2 * 32 * 1536, 8_448, 12_288, 32_100, 32 * 12
    hands = {
        6: (6 + 24) * update + 6 * encoder + 12 * decoder + head + table,
        12: 24 * update + 12 * decoder + head + table,
        18: 12 * update + 6 * decoder + head,
    }
    for lower, count in hands.items():
        assert closed_form(f"lora[biases=all,freeze_lower={lower}]", **PAPER) == count


def test_freezing_every_layer_is_refused_with_the_number_there_is():
    ((_, choice),) = method_spec.parse_specs("lora[freeze_lower=24]")
    case = Case(backbone=backbones.find("t5-base"), method=choice, workload=Workload())
    assert unsupported(case) == "freeze_lower=24 leaves none of the 24 layers"
