"""Scratch of CUDA's reductions: sums over many rows are split across thread blocks.

Each block leaves a partial result in global memory, and the last one adds them up. Source:
aten/src/ATen/native/cuda/Reduce.cuh, setReduceConfig and gpu_reduce_kernel; how dimensions are
ordered and merged first, aten/src/ATen/TensorIterator.cpp, reorder_dimensions and
coalesce_dimensions. For a bias's gradient, the sum over B x T rows, the scratch can be half as
large as the summed tensor itself.

Legend: dimensions are (size, stride in bytes, whether it is summed), fastest first.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from petl_bench.cards import Card
from petl_bench.profilers.simulated.kernels.recipe import (
    FREE,
    Call,
    Recipe,
    Step,
    ceil_div,
    tensors,
)

aten = torch.ops.aten

_MAX_THREADS = 512  # mnt_wrapper
_WARP = 32
_INT32_MAX = 2**31 - 1


class Dim(NamedTuple):
    """One dimension of the input, after merging."""

    size: int
    stride: int
    summed: bool


def scratch(
    card: Card, tensor: torch.Tensor, dims: Sequence[int], accumulator_bytes: int = 4
) -> Iterator[Step]:
    """Partial results and semaphores, where the reduction of `dims` is split across blocks.

    No dimensions are all of them. `accumulator_bytes`: of one partial result.
    """
    if tensor.numel():
        for part in _addressable(_merged(tensor, dims)):
            buffers = list(_split(card, part, tensor.element_size(), accumulator_bytes))
            yield from buffers
            yield from (FREE for _ in buffers)


def _merged(tensor: torch.Tensor, summed: Sequence[int]) -> list[Dim]:
    """Dimensions in the iterator's order, summed ones first, then by stride; merged if they can."""
    item = tensor.element_size()
    rank = tensor.dim()
    chosen = {dim % rank for dim in summed} if summed else set(range(rank))
    dims = [
        Dim(size, stride * item, dim in chosen)
        for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))
    ]
    dims.reverse()
    dims = _ordered(dims)
    merged: list[Dim] = []
    for dim in dims:
        last = merged[-1] if merged else None
        if last is not None and last.size == 1:
            merged[-1] = dim
        elif dim.size == 1 and last is not None:
            continue
        elif (
            last is not None and last.summed == dim.summed and last.size * last.stride == dim.stride
        ):
            merged[-1] = last._replace(size=last.size * dim.size)
        else:
            merged.append(dim)
    return merged


def _ordered(dims: list[Dim]) -> list[Dim]:
    """Insertion sort, as the iterator does it: stable where strides do not tell."""
    for end in range(1, len(dims)):
        place = end
        while place > 0 and _goes_before(dims[place], dims[place - 1]):
            dims[place - 1], dims[place] = dims[place], dims[place - 1]
            place -= 1
    return dims


def _goes_before(one: Dim, other: Dim) -> bool:
    if one.summed != other.summed:
        return one.summed
    if 0 in {one.stride, other.stride} or one.stride == other.stride:
        return False
    return one.stride < other.stride


def _addressable(dims: list[Dim]) -> Iterator[list[Dim]]:
    """Pieces whose offsets fit 32 bits: halves of the widest dimension (with_32bit_indexing)."""
    extent = 1 + sum((dim.size - 1) * dim.stride for dim in dims)
    if extent <= _INT32_MAX:
        yield dims
        return
    widest = max(range(len(dims)), key=lambda place: (dims[place].size - 1) * dims[place].stride)
    half = dims[widest].size // 2
    for size in (half, dims[widest].size - half):
        piece = dims.copy()
        piece[widest] = dims[widest]._replace(size=size)
        yield from _addressable(piece)


@dataclass(frozen=True, kw_only=True)
class _Config:
    """ReduceConfig: how inputs and outputs are spread over threads and blocks."""

    inputs: int
    outputs: int
    output_vector: int
    width: int
    height: int
    step_input: int = 1
    step_output: int = 1

    @property
    def values_per_thread(self) -> int:
        return ceil_div(self.inputs, self.step_input)

    @property
    def grid(self) -> int:
        return ceil_div(self.outputs // self.output_vector, self.step_output)


def _split(card: Card, dims: list[Dim], item: int, accumulator_bytes: int) -> Iterator[int]:
    """Bytes of partial results and of semaphores; none if each output has one block alone."""
    summed = [dim for dim in dims if dim.summed]
    kept = [dim for dim in dims if not dim.summed]
    inputs, outputs = _product(summed), _product(kept)
    along_input = not kept or not summed or dims[0].stride < kept[0].stride
    fastest = dims[0].stride if along_input else kept[0].stride
    first, second = (inputs, outputs) if along_input else (outputs, inputs)
    output_vector = 1
    if fastest == item:
        if along_input and first >= 128 and len(summed) == 1:  # noqa: PLR2004
            first //= 4  # elements that a thread loads at once
        elif not along_input:
            output_vector = _output_vector(dims, kept[0], item)
            first //= output_vector
    width, height = _block(first, second, output_vector)
    config = _Config(
        inputs=inputs, outputs=outputs, output_vector=output_vector, width=width, height=height
    )
    if along_input:
        config = replace(config, step_input=width)
    else:
        config = replace(config, step_output=width)
    if config.values_per_thread < min(height * 16, 256):
        return  # each warp has outputs of its own
    config = replace(config, step_input=config.step_input * height)
    blocks = card.multiprocessors * (card.threads_per_multiprocessor // (width * height))
    if config.values_per_thread < 256 or config.grid > blocks:  # noqa: PLR2004
        return
    per_output = max(
        min(ceil_div(blocks, config.grid), ceil_div(config.values_per_thread, 16)),
        ceil_div(config.values_per_thread, 256),
    )
    if per_output > 1:
        partial = accumulator_bytes * outputs * per_output
        yield partial * (1 if along_input else width * output_vector)
        yield 4 * config.grid


def _block(first: int, second: int, output_vector: int) -> tuple[int, int]:
    """Width and height of a thread block (set_block_dimension)."""
    threads = _MAX_THREADS // output_vector
    first, second = (_power_of_two(size) if size < threads else threads for size in (first, second))
    width = min(first, _WARP)
    height = min(second, threads // width)
    return min(first, threads // height), height


def _output_vector(dims: list[Dim], kept: Dim, item: int) -> int:
    """Neighbouring outputs that a thread sums at once (get_output_vec_size)."""
    vector = 4
    for number in (kept.size, *(dim.stride // item for dim in dims if dim is not kept)):
        while number % vector:
            vector //= 2
    return vector


def _power_of_two(number: int) -> int:
    """The largest power of two that is not above `number`; at least 1."""
    return 1 << max(number, 1).bit_length() - 1


def _product(dims: Sequence[Dim]) -> int:
    return math.prod(dim.size for dim in dims)


# --- operators ---------------------------------------------------------------------------------


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
_pair = _reduces(16)  # a value with its index, and Welford's running mean and variance

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
    aten.var.correction: _pair,
    aten.std.correction: _pair,
    aten.var_mean.correction: _pair,
}
"""Left out: the buffer in which pairs beyond 2 GiB of input are accumulated."""
