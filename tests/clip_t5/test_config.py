import json

import pytest
import torch

from petl_bench import backbones
from petl_bench.errors import UsageError
from petl_bench.suite import Suite


@pytest.fixture
def folder(tmp_path):
    """Factory: a folder with a CLIP-T5's config.json and `changes`."""

    def make(**changes):
        config = {"model_type": "clip-t5", **backbones.find("clip-t5-base").config, **changes}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return make


def test_a_folder_of_the_published_shape_is_the_built_in_backbone(folder):
    assert backbones.find(folder()).config == backbones.find("clip-t5-base").config


def test_a_config_written_by_transformers_gives_the_same_backbone(tiny, tmp_path):
    from petl_bench.backbones.clip_t5.modeling import ClipT5Config

    ClipT5Config(**tiny().config).save_pretrained(tmp_path)
    found = backbones.find(str(tmp_path))
    assert (found.family, found.config) == ("clip-t5", tiny().config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((f, v) for f in ("feature_size", "feature_grid", "images") for v in (0, -1, 1.5, "7")),
        ("pooled_grid", True),
        ("pooled_grid", None),
        ("image_encoder", "vit"),
        ("image_encoder", 3),
        ("image_encoder", ["vit-b32"]),
        ("d_model", 0),
    ],
)
def test_a_dimension_that_makes_no_sense_is_told_by_field_and_value(folder, field, value):
    with pytest.raises(UsageError, match=rf"config\.json: {field} must be") as refused:
        backbones.find(folder(**{field: value}))
    assert repr(value) in str(refused.value)


def test_more_images_than_the_backbone_takes_are_refused():
    suite = Suite(
        methods=("full",), backbone={"name": ["clip-t5-base"]}, workload={"images": [2, 3]}
    )
    with pytest.raises(UsageError, match=r"images: clip-t5-base takes at most 2 \(got 3\)"):
        suite.plan()


def test_images_make_no_other_question_of_a_backbone_that_sees_none():
    (planned,) = Suite(methods=("full",), workload={"images": [1, 2]}).plan()
    assert planned.case.workload.images == 1


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_that_of_t5(tiny, dtype):
    from petl_bench.backbones import FAMILIES
    from petl_bench.case import DType

    backbone = tiny().model_copy(update={"dtype": DType(dtype)})
    with torch.device("meta"):
        model = FAMILIES["clip-t5"].build(backbone)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    kept = {n for n, p in model.named_parameters() if p.dtype != half}
    outputs = {n for n, _ in model.named_parameters() if n.endswith(".wo.weight")}
    assert kept == (outputs if dtype == "fp16" else set())
