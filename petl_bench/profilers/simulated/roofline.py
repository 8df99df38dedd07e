"""Time of a step without a GPU: each operator takes as long as its slowest of three limits.

t = sum over operators of max(FLOPs / peak rate, bytes moved / bandwidth, launch), an estimate.
Source of the model: Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785. Left out:
caches, occupancy, kernels slower than the card's peak; so it is a bound from below.
"""

from collections.abc import Sequence
from typing import Any

import torch

from petl_bench.cards import Card
from petl_bench.record import RooflineEstimate

LAUNCH_S = 5e-6
"""Host time to launch one eager operator. Order of magnitude of PyTorch's dispatcher and CUDA's
launch together; not calibrated against a card yet."""


class Roofline:
    """Adds up operators as the ledger reports them."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._compute_s = self._memory_s = self._launch_s = 0.0

    def add(self, func: Any, args: Sequence[Any], out: Any, flops: int) -> None:
        """Count one operator by its arguments and result; views cost nothing."""
        if func.is_view:
            return
        outputs = _tensors((out,))
        if not outputs:
            return
        half = outputs[0].element_size() == 2  # noqa: PLR2004 - bytes of a 16-bit float
        rate = self._card.half_flops_per_s if half else self._card.fp32_flops_per_s
        moved = sum(_touched_bytes(tensor) for tensor in _tensors(args) + outputs)
        compute_s = flops / rate
        memory_s = moved / self._card.bandwidth_bytes_per_s
        if max(compute_s, memory_s) <= LAUNCH_S:
            self._launch_s += LAUNCH_S
        elif compute_s >= memory_s:
            self._compute_s += compute_s
        else:
            self._memory_s += memory_s

    def estimate(self) -> RooflineEstimate:
        """Seconds of everything added, told apart by what bounds them."""
        return RooflineEstimate(
            card=self._card.name,
            step_s=self._compute_s + self._memory_s + self._launch_s,
            compute_bound_s=self._compute_s,
            memory_bound_s=self._memory_s,
            launch_bound_s=self._launch_s,
        )


def _tensors(values: Sequence[Any]) -> list[torch.Tensor]:
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(item for item in value if isinstance(item, torch.Tensor))
    return found


def _touched_bytes(tensor: torch.Tensor) -> int:
    # An expanded tensor is read once, however often its elements repeat.
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
