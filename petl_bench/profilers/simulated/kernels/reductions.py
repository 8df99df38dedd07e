"""Sums, means, norms, extremes: what they make, and what their kernel borrows (reduce_kernel)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from petl_bench.profilers.simulated.kernels.recipe import Call, Recipe, Step, ceil_div, tensors
from petl_bench.profilers.simulated.kernels.reduce_kernel import scratch

aten = torch.ops.aten


def _reduces(accumulator_bytes: int | None = 4, *, casts: bool = False, dims: int = 1) -> Recipe:
    """A reduction of the first argument over the dimensions that argument `dims` names.

    `accumulator_bytes` of None: the input's own type is accumulated.
    """

    def recipe(call: Call) -> Iterator[Step]:
        source: torch.Tensor = call.args[0]
        *_, out = results = list(tensors(call.out))
        yield from results
        if casts and source.dtype is not out.dtype and not _widens(source, out):
            yield source.numel() * out.element_size()
            source = torch.empty_like(source, dtype=out.dtype)
        accumulator = accumulator_bytes or source.element_size()
        accumulator = max(accumulator, out.element_size())  # integers are summed in 8 bytes
        yield from scratch(call.card, source, _dims(call.arg(dims, "dim")), accumulator)

    return recipe


def _widens(source: torch.Tensor, out: torch.Tensor) -> bool:
    """From 16-bit floats to fp32 a kernel converts as it loads; other types are converted before.

    aten/src/ATen/native/ReduceOpsUtils.h, make_reduction (gpu_lowp_to_f32).
    """
    return source.dtype in {torch.float16, torch.bfloat16} and out.dtype is torch.float32


def _dims(dims: int | Sequence[int] | None) -> Sequence[int]:
    return [dims] if isinstance(dims, int) else dims or ()


def _foreach_norm(call: Call) -> Iterator[Step]:
    """Clipping's norms: a sum for each piece of 65,536 elements, as many as the largest has.

    aten/src/ATen/native/cuda/ForeachReduceOp.cu, foreach_tensor_norm_cuda. Left out: the way of
    lists whose tensors differ in type or lie with holes.
    """
    sources: Sequence[torch.Tensor] = call.args[0]
    largest = max(source.numel() for source in sources)
    yield len(sources) * ceil_div(largest, 65_536) * 4
    yield from tensors(call.out)


_sum, _same, _flag = _reduces(casts=True), _reduces(None), _reduces(1)
_pair = _reduces(16)  # a value with its index

RECIPES: dict[Any, Recipe] = {
    aten.sum.default: _sum,
    aten.sum.dim_IntList: _sum,
    aten.mean.default: _sum,
    aten.mean.dim: _sum,
    aten.linalg_vector_norm.default: _reduces(dims=2),
    aten._foreach_norm.Scalar: _foreach_norm,
    aten.any.default: _flag,
    aten.any.dim: _flag,
    aten.any.dims: _flag,
    aten.all.default: _flag,
    aten.all.dim: _flag,
    aten.all.dims: _flag,
    aten.amax.default: _same,
    aten.amin.default: _same,
    aten.max.default: _same,
    aten.min.default: _same,
    aten.max.dim: _pair,
    aten.min.dim: _pair,
    aten.argmax.default: _pair,
    aten.argmin.default: _pair,
}
"""Left out: the buffer in which pairs beyond 2 GiB of input are accumulated; variances."""
