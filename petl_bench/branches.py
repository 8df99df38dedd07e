"""Modules that a method hangs into residual branches.

They stand between a branch's last projection and its dropout and residual, where Houlsby et al.
2019 (arXiv:1902.00751, figure 2) put their adapters. Only ALL has a decoder's cross-attention,
which the Compacter and the LST authors leave out on text, and the latter not on images.

Legend: B batch, T tokens, D hidden size, m bottleneck.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from petl_bench.backbones.dims import Dims, SublayerKind
from petl_bench.backbones.ports import Ports

SELF_ATTENTION_AND_FEED_FORWARD = frozenset(
    {SublayerKind.SELF_ATTENTION, SublayerKind.FEED_FORWARD}
)
FEED_FORWARD = frozenset({SublayerKind.FEED_FORWARD})
ALL = frozenset(SublayerKind)


class Bottleneck(nn.Module):
    """x + up(gelu(down(x))): through the two layers, and the branch beside it.

    The gelu is the tanh form, as in the code of Sung et al. 2022 and of Mahabadi et al. 2021.
    """

    def __init__(self, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down = down  # [..., D] -> [..., m]
        self.up = up  # and back

    def forward(self, branch_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        inner_BTm = F.gelu(self.down(branch_BTD), approximate="tanh")  # "gelu_new"
        up_BTD: torch.Tensor = self.up(inner_BTm)
        return branch_BTD + up_BTD


def hang(
    ports: Ports, kinds: Collection[SublayerKind], make: Callable[[nn.Linear], nn.Module]
) -> None:
    """Send what every branch of `kinds` returns, [B, T, D], through a module of its own.

    `make` gets the branch's last projection; the module becomes that projection's `adapter`.

    Raises:
        ValueError: there is no such branch.
    """
    chosen = [sublayer.output for sublayer in ports.sublayers if sublayer.kind in kinds]
    if not chosen:
        raise ValueError(f"no sublayer of kind {' or '.join(sorted(kinds))}")
    for output in chosen:
        output.adapter = make(output)
        output.register_forward_hook(_adapt)


def count(dims: Dims, kinds: Collection[SublayerKind]) -> int:
    """How many branches of `kinds` all stacks have."""
    return sum(
        stack.layers * sum(kind in kinds for kind in stack.sublayers)
        for stack in dims.stacks.values()
    )


def _adapt(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    del args
    adapter = module.adapter
    assert isinstance(adapter, nn.Module)
    adapted: torch.Tensor = adapter(output)
    return adapted
