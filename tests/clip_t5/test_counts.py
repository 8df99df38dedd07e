"""Parameters against the LST paper's Table 3, re-derived from the authors' code."""

import pytest

from petl_bench import backbones, method, method_spec, registry
from petl_bench.backbones import FAMILIES

LST = "lst[reduction=4,keep=all]"
TABLE_3 = {  # method: trainable parameters, and their percent of all, added ones included
    "full": (224_540_160, 100.0),
    "adapter[placement=all,bottleneck=192,norms=false]": (19_333_632, 7.98),
    "lora[r=150]": (18_170_112, 7.54),
    "bitfit[terms=all-biases]": (1_865_416, 0.83),
    "prompt[tokens=40,hidden=800]": (2_842_400, 1.26),
    LST: (17_967_384, 7.46),
    "lst[reduction=4,keep=all,extra_input=both]": (17_967_384, 7.46),
}
BASE = backbones.find("clip-t5-base").config


def counted(model):
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("spec", "row"), TABLE_3.items())
def test_every_row_trains_what_the_paper_says(spec, row, built):
    model, _ = built(spec, device="meta", **BASE)
    trained, total = counted(model)
    assert (trained, round(100 * trained / total, 2)) == row


@pytest.mark.parametrize("spec", [*TABLE_3, *registry.names()])
def test_the_closed_form_is_the_number_of_trainable_parameters(spec, built, tiny):
    backbone = tiny()
    ((_, choice),) = method_spec.parse_specs(spec)
    chosen = registry.get(choice.name)
    config = method_spec.validated_config(chosen, choice.config)
    dims = FAMILIES["clip-t5"].dims(backbone.config)
    model, _ = built(spec)
    assert counted(model)[0] == method.trainable_parameters(chosen, dims, config)


def test_a_ladder_and_its_backbone_have_the_papers_total(built):
    assert counted(built(LST, device="meta", **BASE)[0])[1] == 240_926_232


def test_the_visual_embedding_is_the_papers():
    dims = FAMILIES["clip-t5"].dims(BASE)
    assert dims.extra_input_parameters == 1_581_312
    assert dims.total_parameters == 224_540_160 - 1_581_312


@pytest.mark.parametrize(
    ("name", "encoder", "features"),
    [("clip-t5-base-vit-b32", 87_456_000, 768), ("clip-t5-base-vit-b16", 85_799_424, 768)],
)
def test_an_image_encoder_on_the_device_is_clips_and_no_method_trains_it(
    name, encoder, features, built
):
    config = backbones.find(name).config
    for spec in ("full", "lora", LST):
        model, batch = built(spec, device="meta", **config)
        parts = [m for m in model.modules() if type(m).__name__ == "FrozenImageEncoder"]
        assert [counted(part) for part in parts] == [(0, encoder)]
        assert "image_features" not in batch
    embedding = (features + 1) * 768 + 6 * 768 + 4 * 768
    assert FAMILIES["clip-t5"].dims(config).extra_input_parameters == embedding
