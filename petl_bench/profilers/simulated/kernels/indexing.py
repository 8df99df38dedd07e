"""Scratch of embeddings, indexing, sorts and running sums.

Sources, in aten/src/ATen/native/cuda: EmbeddingBackwardKernel.cu and Embedding.cu, Indexing.cu,
Sort.cpp and SortStable.cu, ScanKernels.cpp, Nonzero.cu; for index tensors,
aten/src/ATen/native/TensorAdvancedIndexing.cpp and IndexingUtils.h. A mask chooses everything. Left
out: sorts of several rows longer than 4,096, topk over rows so long that several thread blocks
share one, and what counting and selecting by a mask borrow of cub, below 2 % of what they find.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from petl_bench.profilers.simulated.kernels import cub
from petl_bench.profilers.simulated.kernels.recipe import (
    FREE,
    Call,
    Free,
    Recipe,
    Step,
    ceil_div,
    round_up,
    tensors,
)

aten = torch.ops.aten

_LONG = 8  # bytes of an int64


def _embedding_backward(call: Call) -> Iterator[Step]:
    """Beyond 3,072 indices: sorted, cut into segments of equal indices, those into parts of 10.

    embedding_dense_backward_cuda and embedding_backward_cuda_kernel (NROWS_PER_THREAD). Each part
    is summed in fp32. How many there are is not known on the host, so room is made for the most.
    """
    grad, indices, rows = call.args[:3]
    if not grad.is_contiguous():
        yield grad.nbytes
    n, item = indices.numel(), indices.element_size()
    if n <= 3072:  # noqa: PLR2004 - small inputs take a kernel that needs no scratch
        yield call.out
        return
    yield n * item  # sorted indices
    yield n * item  # where each came from
    yield n * item  # 0, 1, 2, ...
    yield cub.radix_sort_bytes(call.card, n, key_bytes=item, value_bytes=item, key_bits=8 * item)
    yield FREE
    yield FREE
    yield call.out
    segments = min(n, rows)
    yield n * item  # where segments begin
    yield _LONG  # how many there are
    yield n * item  # the key of each, which nobody reads
    yield cub.unique_by_key_bytes(call.card, n, key_bytes=item)
    yield FREE
    yield FREE
    yield segments * item  # parts of each segment
    yield segments * item  # and of those before it
    yield cub.scan_bytes(segments, element_bytes=item)
    yield FREE
    yield _LONG  # how many parts there are
    parts = n // 10 + segments
    yield parts * item  # where parts begin
    width = grad.shape[-1]
    threads = round_up(width, 32)
    blocks = ceil_div(segments * threads, min(threads, 1024))  # that would add up the parts
    if blocks < 4 * call.card.multiprocessors and parts > 4 * blocks:
        # Too few to fill the card: parts are added to their row at once.
        yield parts * item  # the row of each
        yield call.out.numel() * 4 if call.out.element_size() == 2 else 0  # noqa: PLR2004
    else:
        yield parts * width * 4


def _nonzero(call: Call) -> Iterator[Step]:
    """How many there are, counted first, and then where."""
    yield 4
    yield call.out


def _index(call: Call) -> Iterator[Step]:
    """Index tensors become int64; several that are broadcast differently are written out.

    expandTensors and make_info: one kernel reads all of them by the same strides.
    """
    indices = yield from _expanded(call.args[1])
    shape = torch.broadcast_shapes(*(index.shape for index in indices))
    size_bytes = math.prod(shape) * _LONG
    expanded = [index.expand(shape) for index in indices]
    for place, index in enumerate(expanded):
        if index.dtype is not torch.int64:
            yield size_bytes
            expanded[place] = index.new_empty(shape)
    if len({index.stride() for index in expanded}) > 1:
        yield from (size_bytes for index in expanded if not index.is_contiguous())
    yield call.out


def _expanded(
    indices: Sequence[torch.Tensor | None],
) -> Generator[Step, None, list[torch.Tensor]]:
    """Those that are there; a mask is the coordinates of its elements, side by side."""
    found: list[torch.Tensor] = []
    for index in indices:
        if index is None:
            continue
        if index.dtype not in {torch.bool, torch.uint8}:
            found.append(index)
            continue
        n = index.numel()
        yield 4  # how many there are
        yield n * index.dim() * _LONG
        yield Free(-2)
        found += [index.new_empty(n, dtype=torch.int64) for _ in range(index.dim())]
    return found


def _index_put(call: Call) -> Iterator[Step]:
    """Accumulating by index: offsets into the tensor, sorted, so that equal ones are neighbours.

    index_put_with_sort_kernel; computeLinearIndex, which wraps an index and multiplies it by its
    stride. The check of bounds of the safe variants is left out.
    """
    target, indices, value = call.args[:3]
    yield from _result(call)
    accumulates = call.arg(3, "accumulate")
    if not accumulates and value.numel() == 1 and value.device.type == "cpu":
        return  # by a mask it fills
    chosen = yield from _expanded(indices)
    if not accumulates:
        return
    n = math.prod(torch.broadcast_shapes(*(index.shape for index in chosen)))
    for place in range(len(chosen)):
        yield n * _LONG  # wrapped
        yield n * _LONG  # times the stride
        yield Free(-2)
        if place > 0:
            yield FREE  # added to the first
    yield n * _LONG  # sorted offsets
    yield n * _LONG  # where each came from
    yield n * _LONG  # 0, 1, 2, ...
    largest = (target.numel() - 1) // math.prod(target.shape[_last(indices) :])
    yield cub.radix_sort_bytes(
        call.card, n, key_bytes=_LONG, value_bytes=_LONG, key_bits=largest.bit_length()
    )


def _last(indices: Sequence[torch.Tensor | None]) -> int:
    """Dimensions of the target up to the last one that is indexed."""
    upto = end = 0
    for index in indices:
        end += 1 if index is None or index.dtype is not torch.bool else index.dim()
        upto = upto if index is None else end
    return upto


def _result(call: Call) -> Iterator[Step]:
    if call.out is not call.args[0]:
        yield call.out


def _sort(call: Call) -> Iterator[Step]:
    """Places 0, 1, 2, ... of a row, to be sorted with it; long rows by cub.

    sort_cuda_kernel, MAX_ROW = 4096. Keys of 16 bits, which other kernels of cub sort, are left
    out beyond that.
    """
    source: torch.Tensor = call.args[0]
    yield from tensors(call.out)
    row = source.shape[call.arg(1, "dim", -1)] if source.dim() else 1
    yield row * _LONG
    item = source.element_size()
    if row > 4096 and row == source.numel() and item >= 4:  # noqa: PLR2004
        yield cub.radix_sort_bytes(
            call.card, row, key_bytes=item, value_bytes=_LONG, key_bits=8 * item
        )


def _running(call: Call) -> Iterator[Step]:
    """Running sums and products: the input in the result's type; a single row is cub's.

    aten/src/ATen/native/ReduceOps.cpp, impl_func_cum_ops; ScanKernels.cpp, cumsum_cuda_kernel.
    16-bit floats take as much as 8 bytes.
    """
    source, out = call.args[0], call.out
    yield out
    if source.dtype is not out.dtype:
        yield out.nbytes
    if source.numel() and source.shape[call.arg(1, "dim")] == source.numel():
        item = out.element_size()
        yield cub.scan_bytes(out.numel(), element_bytes=4 if item == 4 else 8)  # noqa: PLR2004


RECIPES: dict[Any, Recipe] = {
    aten.embedding_dense_backward.default: _embedding_backward,
    aten.nonzero.default: _nonzero,
    aten.index.Tensor: _index,
    aten._unsafe_index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten.index_put_.default: _index_put,
    aten._unsafe_index_put.default: _index_put,
    aten._index_put_impl_.default: _index_put,
    aten.sort.default: _sort,
    aten.sort.stable: _sort,
    aten.cumsum.default: _running,
    aten.cumprod.default: _running,
}
