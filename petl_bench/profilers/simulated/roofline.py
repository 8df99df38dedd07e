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

aten = torch.ops.aten

NO_KERNEL = {
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten.detach_,
    aten.lift_fresh,
    aten._local_scalar_dense,
    aten._unsafe_view,
}
"""What allocates, or only renames."""

OVERWRITES = {aten.copy_, aten.fill_, aten.zero_}
"""What does not read its first argument, which it writes."""

FILLS = {
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
}
"""What only takes the form of its first argument."""

GATHERS = {aten.embedding, aten.index, aten.index_select, aten.gather, aten.nll_loss_forward}
"""What reads of its largest argument only as much as it writes."""


class Roofline:
    """Adds up operators as the ledger reports them."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._compute_s = self._memory_s = self._launch_s = 0.0

    def add(self, func: Any, args: Sequence[Any], out: Any, flops: int) -> None:
        """Count one operator by its arguments and result; views cost nothing."""
        outputs = _tensors((out,))
        if func.is_view or func.overloadpacket in NO_KERNEL or not outputs:
            return
        inputs = _tensors(args)
        # Tensor cores run by the type of what is multiplied.
        half = (inputs or outputs)[-1].element_size() == 2  # noqa: PLR2004 - bytes
        rate = self._card.half_flops_per_s if half else self._card.fp32_flops_per_s
        compute_s = flops / rate
        memory_s = moved_bytes(func, inputs, outputs) / self._card.bandwidth_bytes_per_s
        if max(compute_s, memory_s) <= self._card.launch_s:
            self._launch_s += self._card.launch_s
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


def moved_bytes(func: Any, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
    """Bytes that the kernel of `func` must read and write, each once."""
    kind = func.overloadpacket
    written = sum(map(_touched_bytes, outputs))
    if kind in FILLS:
        return written
    read = {id(tensor): tensor for tensor in inputs}
    if kind in OVERWRITES:
        del read[id(inputs[0])]
    if kind in GATHERS:
        largest = max(inputs, key=_touched_bytes)
        del read[id(largest)]
        written += min(written, _touched_bytes(largest))
    return written + sum(map(_touched_bytes, read.values()))


def _tensors(values: Sequence[Any]) -> list[torch.Tensor]:
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(item for item in value if isinstance(item, torch.Tensor))
    return found


def _touched_bytes(tensor: torch.Tensor) -> int:
    if tensor.is_sparse:
        return tensor._indices().nbytes + tensor._values().nbytes
    # An expanded tensor is read once, however often its elements repeat.
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
