"""CLIP-T5: T5-base with a visual embedding, as the LST paper's vision-and-language runs have it.

The image is 6 x 6 visual tokens, pooled from CLIP's 7 x 7 grid (RN101 features of 2,048, made
beforehand; or CLIP's ViT-B/32 or B/16 on the device, frozen). A vocabulary of 32,200 has T5's
32,100 words and a hundred names of visual tokens.
Source: Sung et al. 2022, arXiv:2206.06522, section 4.2, and the authors' code; see `modeling`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import t5
from petl_bench.backbones.build import TORCH_DTYPES, from_config
from petl_bench.backbones.clip_t5.images import IMAGE_SIZE, VIT_PATCHES, clip_vit
from petl_bench.backbones.clip_t5.thin import ThinClipT5Stack
from petl_bench.backbones.dims import Dims
from petl_bench.backbones.family import Family
from petl_bench.backbones.ports import ExtraInput, Ports, Sight
from petl_bench.backbones.shape import read
from petl_bench.case import Backbone, ConfigValue, Workload

_SIZES = {"feature_size": 2048, "feature_grid": 7, "pooled_grid": 6, "images": 2}
_BASE = t5.PUBLISHED["t5-base"] | _SIZES | {"image_encoder": None, "vocab_size": 32_200}
PUBLISHED: dict[str, dict[str, Any]] = {
    "clip-t5-base": _BASE,
    **{
        f"clip-t5-base-{name}": _BASE
        | {"image_encoder": name, "feature_size": 768, "feature_grid": IMAGE_SIZE // patch}
        for name, patch in VIT_PATCHES.items()
    },
}


def _normalise(config: Mapping[str, Any]) -> dict[str, ConfigValue]:
    sizes = read(config, _SIZES)
    encoder = config.get("image_encoder")
    if encoder not in (None, *VIT_PATCHES):
        known = ", ".join(VIT_PATCHES)
        raise ValueError(f"image_encoder must be null or one of {known} (got {encoder!r})")
    return t5.FAMILY.normalise(config) | sizes | {"image_encoder": encoder}


def _dims(config: Mapping[str, Any]) -> Dims:
    dims = t5.FAMILY.dims(config)
    D = dims.hidden_size
    # Two linear layers with biases, two norms, image order; 1,581,312 in CLIP-T5-base.
    embedding = (config["feature_size"] + 1) * D + (5 + 1) * D + 2 * D + config["images"] * D
    return replace(dims, extra_input_parameters=embedding, extra_input_norms=2)


def _class() -> Any:
    from petl_bench.backbones.clip_t5.modeling import ClipT5  # noqa: PLC0415 - imports transformers

    return ClipT5


def _build(backbone: Backbone) -> nn.Module:
    from petl_bench.backbones.clip_t5.modeling import ClipT5, ClipT5Config  # noqa: PLC0415

    config = ClipT5Config(**backbone.config, decoder_start_token_id=0, use_cache=False)
    create = ClipT5._from_config  # noqa: SLF001 - what AutoModel calls
    model: Any = from_config(create, config, backbone)
    name = backbone.config["image_encoder"]
    if name is not None:
        model.encoder.image_encoder = clip_vit(str(name), backbone)
    t5.keep_in_fp32(model, backbone.dtype)
    return model  # type: ignore[no-any-return]


def _ports(model: nn.Module) -> Ports:
    clip: Any = model
    ports = t5.FAMILY.ports(model)
    embedding = clip.encoder.visual_embedding
    stacks = (replace(s, thin=partial(ThinClipT5Stack, s.module.config)) for s in ports.stacks)
    return replace(
        ports,
        dims=_dims(_normalise(clip.config.to_dict())),
        stacks=tuple(stacks),
        extra_input=ExtraInput(
            stack="encoder",
            embedding=embedding,
            norms=(embedding.features_norm, embedding.boxes_norm),
            show=_show,
            frozen=clip.encoder.image_encoder,
        ),
    )


def _show(encoder: nn.Module, sight: Sight) -> None:
    vars(encoder)["sight"] = sight


def _batch(backbone: Backbone, workload: Workload, device: torch.device) -> dict[str, torch.Tensor]:
    config: Mapping[str, Any] = backbone.config
    B, images, cells = workload.batch_size, workload.images, config["feature_grid"] ** 2
    shape: tuple[int, ...]
    if config["image_encoder"] is None:
        name, shape = "image_features", (images * cells, config["feature_size"])
    else:
        name, shape = "pixel_values", (images, 3, IMAGE_SIZE, IMAGE_SIZE)
    # Drawn where they are needed: a batch of them takes hundreds of megabytes.
    values = torch.empty(B, *shape, dtype=TORCH_DTYPES[backbone.dtype], device=device)
    if device.type != "meta":
        values.normal_(generator=torch.Generator(device).manual_seed(workload.seed))
    return {**t5.FAMILY.batch(backbone, workload, device), name: values}


FAMILY = Family(
    name="clip-t5",
    architectures=("ClipT5",),
    published=PUBLISHED,
    normalise=_normalise,
    dims=_dims,
    build=_build,
    ports=_ports,
    batch=_batch,
    own_class=_class,
    most_images=lambda config: config["images"],
)
