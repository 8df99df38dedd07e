"""Image encoders that run on the device, frozen: pixels to grid features.

Legend: B batch, I images an example, C channels, G cells of the encoder's grid, F feature size.
"""

from typing import Any, Self

import torch
from torch import nn

from petl_bench.backbones.build import from_config
from petl_bench.case import Backbone

_CLIP_VIT_B = {  # Radford et al. 2021, arXiv:2103.00020, table 20
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
}
VIT_PATCHES = {"vit-b32": 32, "vit-b16": 16}
"""CLIP's ViT-B image encoders by name, and the pixels a side of their patches."""
IMAGE_SIZE = 224


class FrozenImageEncoder(nn.Module):
    """Pixels, [B, I, C, height, width] -> grid features, [B, I G, F], without a gradient.

    `network` is one of transformers' vision models, whose first token stands for the whole image
    and is dropped; or, as timm's models are, one whose `forward_features` returns maps,
    [images, F, rows, columns]. It stays in eval mode, so a CNN keeps its batch statistics.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - as torch's
        """Always eval."""
        del mode
        return super().train(mode=False)

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, I, C, height, width] -> [B, I G, F]."""
        network: Any = self.network
        images = pixels.flatten(0, 1)
        if hasattr(network, "forward_features"):
            features = network.forward_features(images).flatten(2).transpose(1, 2)
        else:
            features = network(images).last_hidden_state[:, 1:]
        return features.reshape(len(pixels), -1, features.shape[-1])  # type: ignore[no-any-return]


def clip_vit(name: str, backbone: Backbone) -> FrozenImageEncoder:
    """CLIP's ViT-B with random weights, in the dtype and attention of `backbone`."""
    from transformers import CLIPVisionConfig, CLIPVisionModel  # noqa: PLC0415 - only workers

    config = CLIPVisionConfig(**_CLIP_VIT_B, patch_size=VIT_PATCHES[name])
    create = CLIPVisionModel._from_config  # noqa: SLF001 - what AutoModel calls
    return FrozenImageEncoder(from_config(create, config, backbone))
