"""Scratch of matrix products and convolutions.

Sources: aten/src/ATen/native/cuda/Blas.cpp; aten/src/ATen/native/Convolution.cpp and
cudnn/ConvShared.cpp. A bias needs none: cuBLASLt adds it as it writes the product, cuBLAS starts
from a result that it was copied into (addmm_out_cuda_impl), and a convolution's is added in place.

Not knowable: the workspaces of convolutions, which cuDNN's heuristics choose on the card.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from petl_bench.profilers.simulated.kernels import sparse
from petl_bench.profilers.simulated.kernels.recipe import Call, Recipe, Step, tensors
from petl_bench.profilers.simulated.kernels.reduce_kernel import scratch

aten = torch.ops.aten


def _product(call: Call) -> Iterator[Step]:
    """Operands that lie neither in rows nor in columns are copied.

    prepare_matrix_for_cublas and, for batches, prepare_batch_matrix_for_cublas: a gradient that is
    expanded, or heads that are cut out of a wider row the other way.
    """
    if call.args[-2].is_sparse:
        yield from sparse.product(call)
        return
    yield call.out
    for matrix in call.args[-2:]:
        if not _has_leading_dimension(matrix):
            yield matrix.numel() * matrix.element_size()


def _has_leading_dimension(matrix: torch.Tensor) -> bool:
    """Whether elements of rows, or of columns, are neighbours, and the lines do not overlap."""
    if matrix.is_contiguous():
        return True
    (rows, columns), (down, along) = matrix.shape[-2:], matrix.stride()[-2:]
    return (along == 1 and down >= max(1, columns)) or (down == 1 and along >= max(1, rows))


def _convolution(call: Call) -> Iterator[Step]:
    """An input that is neither contiguous nor channels-last is copied (_convolution)."""
    yield from _copies(*call.args[:2])
    yield call.out


def _convolution_backward(call: Call) -> Iterator[Step]:
    """The gradient likewise; the bias's is a sum (cudnn_convolution_backward)."""
    grad, source = call.args[:2]
    yield from _copies(grad, source)
    yield from tensors(call.out)
    if call.args[10][2]:
        yield from scratch(call.card, grad, [0, *range(2, grad.dim())])


def _copies(*sources: torch.Tensor) -> Iterator[Step]:
    for source in sources:
        if not source.is_contiguous(memory_format=suggest_memory_format(source)):
            yield source.nbytes


RECIPES: dict[Any, Recipe] = {
    aten.mm.default: _product,
    aten.addmm.default: _product,
    aten.bmm.default: _product,
    aten.baddbmm.default: _product,
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
}
