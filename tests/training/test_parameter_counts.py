"""Trainable parameters against the LST paper's, re-derived from the authors' code.

T5-base has a vocabulary of 32,128 as published and 32,100 in the paper's runs; counts that
include the embedding or the head's bias differ by it.
"""

import pytest

from petl_bench import backbones, method_spec, registry
from petl_bench.backbones import FAMILIES

PAPER_VOCABULARY = {"vocab_size": 32_100}

T5_BASE = {
    "full": 222_882_048,
    "adapter": 3_625_728,
    "compacter": 161_728,
    "compacter[placement=compacter++]": 104_704,
    "lora": 3_538_944,
    "lora[biases=all]": 3_820_644,
    "lora_fa": 1_769_472,
    "bitfit": 280_932,
    "prompt": 76_800,
    "ptuning": 8_278_272,
    "ptuning[encoder=mlp]": 1_778_688,
    "ia3": 129_024,
    "theseus": 99_114_240,
    "prefix": 29_571_072,
    "prefix[projection=false]": 552_960,
    "lst": 3_878_712,
    "lst[keep=1-3,5-7,9-11]": 3_878_712,
    "lst[keep=all]": 5_097_240,
    "lst[keep=2,3,6,7,10,11]": 2_660_184,
    "lst[keep=3,7,11]": 1_441_656,
    "lst[reduction=2,keep=all]": 57_543_192,
    "lst[reduction=4,keep=all]": 16_386_072,
    "lst[reduction=16,keep=all]": 1_775_256,
    "lst[reduction=32,keep=all]": 694_872,
}
LARGER = {
    ("t5-large", "lst"): 9_057_328,
    ("t5-large", "full"): 737_639_424,
    ("t5-3b", "lst"): 2_494_896,
    ("t5-3b", "full"): 2_851_569_664,
}


def closed_form(backbone: str, spec: str, **changes) -> int:
    found = backbones.find(backbone)
    found = found.model_copy(update={"config": {**found.config, **changes}})
    ((_, choice),) = method_spec.parse_specs(spec)
    method = registry.get(choice.name)
    config = method_spec.validated_config(method, choice.config)
    return method.trainable_parameters(FAMILIES[found.family].dims(found.config), config)


@pytest.mark.parametrize(("spec", "count"), T5_BASE.items())
def test_t5_base_counts_are_the_papers(spec, count):
    assert closed_form("t5-base", spec, **PAPER_VOCABULARY) == count


@pytest.mark.parametrize(("key", "count"), LARGER.items(), ids=str)
def test_larger_t5_counts_are_the_papers(key, count):
    assert closed_form(*key, **PAPER_VOCABULARY) == count


@pytest.mark.parametrize("spec", T5_BASE)
def test_t5_base_really_trains_that_many(spec, attach):
    found = backbones.find("t5-base")
    paper = found.model_copy(update={"config": {**found.config, **PAPER_VOCABULARY}})
    built = attach(spec, paper, device="meta")
    trained = sum(p.numel() for p in built.model.parameters() if p.requires_grad)
    assert trained == T5_BASE[spec]


def test_the_published_vocabulary_adds_28_rows():
    assert closed_form("t5-base", "full") == T5_BASE["full"] + 28 * 768
    assert closed_form("t5-base", "bitfit") == T5_BASE["bitfit"] + 28


def test_norms_are_the_vectors_that_t5_owns():
    assert closed_form("t5-base", "bitfit[terms=norms]") == 62 * 768


@pytest.mark.parametrize(
    ("spec", "percent"), [("compacter", 0.073), ("compacter[placement=compacter++]", 0.047)]
)
def test_compacters_shares_are_its_papers(spec, percent):
    """Table 1's "trained parameters per task": adapters, the shared rule and all norms."""
    assert round(100 * T5_BASE[spec] / T5_BASE["full"], 3) == percent


def test_pfeiffer_has_half_of_houlsbys_bottlenecks():
    houlsby = closed_form("t5-base", "adapter[norms=false]")
    assert closed_form("t5-base", "adapter[placement=pfeiffer,norms=false]") * 2 == houlsby
    assert houlsby == 48 * 74_544


def test_lora_grows_linearly_with_its_rank():
    assert closed_form("t5-base", "lora[r=64]") == 2 * closed_form("t5-base", "lora[r=32]")
