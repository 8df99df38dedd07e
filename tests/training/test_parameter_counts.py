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
PUBLISHED = {  # parameters, as the hub counts them in each checkpoint; of DeBERTa with its pooler
    "bert-large": 335_141_888,
    "bert-large-mlm": 335_174_458,
    "deberta-v3-base": 184_422_144,
    "deberta-v3-large": 434_012_160 + 1024 * 1025,
    "deberta-v3-small": 141_304_320 + 768 * 769,
    "deberta-v3-xsmall": 70_682_112 + 384 * 385,
    "distilbert-base": 66_362_880,
    "distilgpt2": 81_912_576,
    "flan-t5-base": 247_577_856,
    "flan-t5-large": 783_150_080,
    "flan-t5-small": 76_961_152,
    "flan-t5-xl": 2_849_757_184,
    "flan-t5-xxl": 11_135_332_352,
    "gemma-2-27b": 27_227_128_320,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-1b": 999_885_952,
    "gemma-3-270m": 268_098_176,
    "gpt2": 124_439_808,
    "gpt2-large": 774_030_080,
    "gpt2-medium": 354_823_168,
    "gpt2-xl": 1_557_611_200,
    "llama-2-13b": 13_015_864_320,
    "llama-2-7b": 6_738_415_616,
    "mistral-7b": 7_248_023_552,
    "opt-1.3b": 1_315_758_080,
    "opt-125m": 125_239_296,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "phi-3-mini": 3_821_079_552,
    "pythia-1.4b": 1_414_647_808,
    "pythia-160m": 162_322_944,
    "pythia-1b": 1_011_781_632,
    "pythia-2.8b": 2_775_208_960,
    "pythia-410m": 405_334_016,
    "pythia-6.9b": 6_857_302_016,
    "pythia-70m": 70_426_624,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "tinyllama-1.1b": 1_100_048_384,
}


# As published, or as anyone counts whose transformers loads the published weights: of the whole
# model with two labels where it is a classifier.
TOTALS = {
    "bert-base": 109_482_240 + 1_538,
    "roberta-base": 124_055_040 + 592_130,
    "roberta-large": 355_361_794,
    "bert-base-mlm": 109_514_298,
    "roberta-base-mlm": 124_697_433,
    "roberta-large-mlm": 355_412_057,
    "bart-large-encoder": 204_730_370,  # the LST authors' denominator
    "bart-large": 406_291_456,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
}
# By arithmetic, from the papers' descriptions.
OTHER_FAMILIES = {
    # All biases of 12 layers, 11 * 768 each, and a classifier: 0.09 % in Ben Zaken et al., table 1.
    ("bert-base", "bitfit"): 12 * 11 * 768 + 1_538,
    # 25 norms there; here those of the layers, two vectors each.
    ("bert-base", "bitfit[terms=norms]"): 12 * 2 * 2 * 768 + 1_538,
    ("bert-base", "theseus"): 6 * 7_087_872 + 1_538,
    # Rank 8 on q and v; Hu et al., table 2, "0.3M" without the task head.
    ("roberta-base", "lora[r=8]"): 294_912 + 592_130,
    ("roberta-large", "lora[r=8]"): 786_432 + 1_051_650,
    # Of 4,096 columns, and rows of 4,096 and, shared by four heads, 1,024.
    ("llama-3.1-8b", "lora[r=8]"): 32 * 8 * (4_096 + 4_096 + 4_096 + 1_024),
    ("llama-3.2-1b", "ia3"): 16 * (2 * 512 + 8_192),
    ("llama-3.2-1b", "prompt"): 100 * 2_048,
    ("llama-3.2-1b", "prefix[projection=false]"): 16 * 10 * 2 * 512,
    # Su 2022: 5 projections of D x 128, 4 blocks of 198,272, a head of 128 x 2 with a bias:
    # his "about 1.28 M" and "1.45 M" without the head.
    ("roberta-base", "lst[variant=blog]"): 1_284_608 + 258,
    ("roberta-large", "lst[variant=blog]"): 1_448_448 + 258,
    # 13 rungs of 131,200, 12 blocks of 198,272, 12 gates, the exit, the task head.
    ("bart-large-encoder", "lst[keep=all]"): (
        13 * 131_200 + 12 * 198_272 + 12 + 132_096 + 1_051_650
    ),
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


@pytest.mark.parametrize("name", TOTALS)
def test_other_backbones_have_their_published_size(name, attach):
    assert closed_form(name, "full") == TOTALS[name]
    built = attach("full", backbones.find(name), device="meta")
    assert sum(p.numel() for p in built.model.parameters()) == TOTALS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_built_in_backbone_has_as_many_parameters_as_its_checkpoint(name):
    backbone = backbones.find(name)
    dims = backbones.FAMILIES[backbone.family].dims(backbone.config)
    assert dims.total_parameters == PUBLISHED[name]
    assert dims.stacks


def test_every_backbone_by_name_has_its_size_checked():
    t5 = {name for name in backbones.names() if "t5-" in name}  # above, and tests/clip_t5
    assert set(backbones.names()) == TOTALS.keys() | PUBLISHED.keys() | t5


@pytest.mark.parametrize("key", OTHER_FAMILIES, ids="-".join)
def test_methods_train_as_many_as_the_arithmetic_says(key, attach):
    name, spec = key
    assert closed_form(name, spec) == OTHER_FAMILIES[key]
    built = attach(spec, backbones.find(name), device="meta")
    trained = sum(p.numel() for p in built.model.parameters() if p.requires_grad)
    assert trained == OTHER_FAMILIES[key]


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
