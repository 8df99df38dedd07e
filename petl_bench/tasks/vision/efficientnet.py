"""EfficientNet-Lite0 up to its last maps: images of 224 x 224 to a grid of 7 x 7 cells.

An EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946, table 1) without squeeze-and-excitation, with
ReLU6, and a stem and head of fixed width: R. Liu 2020, "Higher accuracy on vision models with
EfficientNet-Lite". Padding is TensorFlow's, and modules are named as in the published weights.

Legend: B batch, C channels, G cells, F features of a cell.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

IMAGE_SIZE = 224
GRID = 7
FEATURES = 1280


class _Stage(NamedTuple):
    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


_STAGES = (
    _Stage(1, 16, 1, 1, 3),
    _Stage(6, 24, 2, 2, 3),
    _Stage(6, 40, 2, 2, 5),
    _Stage(6, 80, 3, 2, 3),
    _Stage(6, 112, 3, 1, 5),
    _Stage(6, 192, 4, 2, 5),
    _Stage(6, 320, 1, 1, 3),
)
_STEM = 32


class _SameConvolution(nn.Conv2d):
    """Padded so that the output has ceil(size / stride) rows; what is odd goes to the end."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - as torch's
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        padding: list[int] = []
        for size in (input.shape[-1], input.shape[-2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(input, padding))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Expansion, a convolution by channel, projection; and a shortcut where shapes agree."""

    def __init__(self, inputs: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        self.expands = stage.expansion > 1
        self.shortcut = stride == 1 and inputs == stage.channels
        if self.expands:
            self._expand_conv = _SameConvolution(inputs, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _SameConvolution(inner, inner, stage.kernel, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = _SameConvolution(inner, stage.channels, 1)
        self._bn2 = _norm(stage.channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        out: torch.Tensor = x + y if self.shortcut else y
        return out


class EfficientNetLite0(nn.Module):
    """Images, [B, 3, 224, 224], to features of their cells, [B, G, F]; in eval mode for good."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConvolution(3, _STEM, 3, 2)
        self._bn0 = _norm(_STEM)
        blocks, inputs = [], _STEM
        for stage in _STAGES:
            for number in range(stage.blocks):
                blocks.append(_Block(inputs, stage, 1 if number else stage.stride))
                inputs = stage.channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _SameConvolution(inputs, FEATURES, 1)
        self._bn1 = _norm(FEATURES)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels from 0 to 255, [B, 3, 224, 224], to [B, G, F]."""
        x = (images - 127) / 128  # what the published weights were trained on
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        x = F.relu6(self._bn1(self._conv_head(x)))
        return x.flatten(2).transpose(1, 2)

    @torch.inference_mode()
    def encode(self, paths: Sequence[Path]) -> npt.NDArray[np.float32]:
        """The images in files, of any size, [B, G, F]."""
        pixels = np.stack([_pixels(path) for path in paths])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        # On a processor, channels in the innermost place take half the time.
        return self(images.contiguous(memory_format=torch.channels_last)).numpy()  # type: ignore[no-any-return]


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        size = (IMAGE_SIZE, IMAGE_SIZE)
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def load(path: Path) -> EfficientNetLite0:
    """The network with the weights at `path`; its classifier is left out."""
    model = EfficientNetLite0()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith("_fc.")})
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs
    return model
