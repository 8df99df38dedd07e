"""Time of a step without a GPU: each operator takes as long as the slower of two limits.

t = sum over operators of max(FLOPs / rate, bytes moved / bandwidth), an estimate; or, if that is
more, what the host needs to launch them all, since it runs ahead of the GPU. Source of the model:
Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785. What a product's shape costs is in
`machines.py`. Left out of a GPU: caches, kernels slower than the card's peak, waits for a value; so
it is a bound from below.
"""

from collections.abc import Sequence
from typing import Any

import torch

from petl_bench.processors import Kind
from petl_bench.profilers.simulated.machines import Machine, Product
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


PRODUCTS = {
    aten.mm: (0, 1),
    aten.addmm: (1, 2),
    aten._addmm_activation: (1, 2),
    aten.bmm: (0, 1),
    aten.baddbmm: (1, 2),
}
"""Matrix products, and where their factors stand among the arguments."""

KINDS = {
    kernel: kind
    for kind, kernels in {
        Kind.RANDOM: (aten.bernoulli, aten.bernoulli_, aten.native_dropout),
        Kind.EXPONENTIAL: (
            aten._softmax,
            aten._safe_softmax,
            aten._log_softmax,
            aten._log_softmax_backward_data,
            aten.exp,
            aten.sigmoid,
            aten.silu,
            aten.silu_backward,
            aten.logsumexp,
        ),
        Kind.ERROR_FUNCTION: (aten.gelu, aten.gelu_backward),
        Kind.TANH: (aten.tanh,),
        Kind.ROOT: (aten.sqrt, aten._foreach_sqrt, aten.rsqrt, aten.reciprocal),
        Kind.CHOICE: (aten.where, aten.masked_fill, aten.masked_fill_),
    }.items()
    for kernel in kernels
}
"""Kernels whose elements cost more than their bytes where lanes are few."""


COPIES = {aten.clone, aten.copy_, aten._to_copy}
"""What may read one order and write another."""


class Roofline:
    """Adds up operators as the ledger reports them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._compute_s = self._memory_s = self._launch_s = 0.0

    def add(self, func: Any, args: Sequence[Any], out: Any, flops: int) -> None:
        """Count one operator by its arguments and result; views cost nothing of their own."""
        outputs = _tensors((out,)) or _written(func, args)
        if func.is_view or func.overloadpacket in NO_KERNEL or not outputs:
            return
        compute_s, memory_s = self._limits(func, args, outputs, flops)
        self._launch_s += self._machine.launch_s
        if compute_s >= memory_s:
            self._compute_s += compute_s
        else:
            self._memory_s += memory_s

    def estimate(self) -> RooflineEstimate:
        """Seconds of everything added, told apart by what bounds them."""
        busy_s = self._compute_s + self._memory_s
        launch_s = self._launch_s if self._machine.waits else max(0.0, self._launch_s - busy_s)
        return RooflineEstimate(
            card=self._machine.name,
            step_s=busy_s + launch_s,
            compute_bound_s=self._compute_s,
            memory_bound_s=self._memory_s,
            launch_bound_s=launch_s,
        )

    def _limits(
        self, func: Any, args: Sequence[Any], outputs: Sequence[torch.Tensor], flops: int
    ) -> tuple[float, float]:
        """Seconds of arithmetic, and of traffic."""
        inputs = _tensors(args)
        # Tensor cores run by the type of what is multiplied.
        half = (inputs or outputs)[-1].element_size() == 2  # noqa: PLR2004 - bytes
        kind = func.overloadpacket
        if kind in PRODUCTS:
            a, b = (args[place] for place in PRODUCTS[kind])
            batch = a.shape[0] if a.dim() == 3 else 1  # noqa: PLR2004
            shape = Product(batch, a.shape[-2], b.shape[-1], a.shape[-1])
            compute_s = self._machine.product_s(shape, half=half)
        elif flops:
            compute_s = self._machine.flops_s(flops, half=half)
        else:
            elements = sum(each.numel() for each in outputs)
            compute_s = self._machine.elements_s(_kind(func, inputs, outputs), elements)
        return compute_s, self._machine.traffic_s(moved_bytes(func, inputs, outputs))


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


def _kind(func: Any, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> Kind:
    turned = len({_is_strided(tensor) for tensor in (*inputs, *outputs)}) > 1
    if func.overloadpacket in COPIES and turned:
        return Kind.STRIDED
    return KINDS.get(func.overloadpacket, Kind.PLAIN)


def _is_strided(tensor: torch.Tensor) -> bool:
    return tensor.dim() > 0 and tensor.shape[-1] > 1 and tensor.stride(-1) > 1


def _written(func: Any, args: Sequence[Any]) -> list[torch.Tensor]:
    """What an operator without a result writes: lists, as optimizers' operators have."""
    places = func._schema.arguments
    written = (
        i for i, place in enumerate(places) if place.alias_info and place.alias_info.is_write
    )
    return _tensors([args[i] for i in written if i < len(args)])


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
