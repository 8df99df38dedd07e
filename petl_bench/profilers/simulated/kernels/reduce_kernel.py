"""Scratch of CUDA's reductions: sums over many rows are split across thread blocks.

Each block leaves a partial result in global memory, and the last one adds them up. Source:
aten/src/ATen/native/cuda/Reduce.cuh, setReduceConfig and gpu_reduce_kernel; how dimensions are
ordered and merged first, aten/src/ATen/TensorIterator.cpp, reorder_dimensions and
coalesce_dimensions. For a bias's gradient, the sum over B x T rows, the scratch can be larger
than what is summed: the buffer is asked for once an output and once a thread along outputs.

Legend: dimensions are (size, stride in bytes, whether it is summed), fastest first.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from petl_bench.cards import Card
from petl_bench.profilers.simulated.kernels.recipe import (
    FREE,
    Step,
    ceil_div,
)

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

    No dimensions are all of them; a scalar is its own sum. `accumulator_bytes`: of one partial
    result.
    """
    if tensor.numel() and tensor.dim():
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
    """Insertion sort, as the iterator does it: it looks past what it cannot tell apart."""
    for end in range(1, len(dims)):
        place = end
        for before in range(end - 1, -1, -1):
            order = _order(dims[before], dims[place])
            if order > 0:
                dims[before], dims[place] = dims[place], dims[before]
                place = before
            elif order < 0:
                break
    return dims


def _order(first: Dim, second: Dim) -> int:
    """Below 0 where they stay, above where they are swapped, 0 where nothing tells.

    Kept dimensions stay as the result has them, which is contiguous.
    """
    if first.summed != second.summed:
        return 1 if second.summed else -1
    if not first.summed:
        return -1
    if 0 in {first.stride, second.stride}:
        return 0
    if first.stride == second.stride:
        return first.size > second.size
    return 1 if first.stride > second.stride else -1


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
