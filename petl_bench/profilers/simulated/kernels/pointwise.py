"""Dropout, softmax and losses: what their CUDA kernels allocate beside or before their results."""

from collections.abc import Iterator
from typing import Any

import torch

from petl_bench.profilers.simulated.kernels.recipe import Call, Recipe, Sized, Step

aten = torch.ops.aten


def _dropout(call: Call) -> Iterator[Step]:
    """The mask, of one byte an element, and then the result.

    aten/src/ATen/native/cuda/Dropout.cu, dropout_cuda.
    """
    result, mask = call.out
    yield mask
    yield result


def _isinf(call: Call) -> Iterator[Step]:
    """`self.abs() == inf`. aten/src/ATen/native/TensorCompare.cpp, isinf."""
    if call.args[0].is_floating_point():
        yield call.args[0].nbytes
    yield call.out


def _softmax_backward(call: Call) -> Iterator[Step]:
    """`grad * output`. aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out."""
    yield call.out
    yield call.args[0].nbytes


def _safe_softmax(call: Call) -> Iterator[Step]:
    """Rows that are masked altogether are found and set to zero.

    aten/src/ATen/native/transformers/attention.cpp, _safe_softmax.
    """
    scores: torch.Tensor = call.args[0]
    yield call.out
    yield scores.numel()  # == -inf
    yield scores.numel() // scores.shape[call.args[1]]  # in all of a row
    yield scores.element_size()  # a zero


def _nll_loss_backward(call: Call) -> Iterator[Step]:
    """A gradient that is one number for every example is written out.

    aten/src/ATen/native/cuda/Loss.cu, nll_loss_backward_out_cuda_template.
    """
    yield call.out
    grad: torch.Tensor = call.args[0]
    if not grad.is_contiguous():
        yield grad.nbytes


def _mse_loss(call: Call) -> Iterator[Step]:
    """The mean is written into what was made for one loss an element, and does not shrink it.

    aten/src/ATen/native/BinaryOps.cpp, the meta function of mse_loss; Loss.cpp, mse_loss_out.
    """
    one, other = call.args[:2]
    shape = torch.broadcast_shapes(one.shape, other.shape)
    size_bytes = shape.numel() * call.out.element_size()
    yield Sized(call.out, size_bytes)
    if call.arg(2, "reduction", 1):
        yield size_bytes


def _bce_with_logits(call: Call) -> Iterator[Step]:
    """Logarithm of the sigmoid, and one loss an element.

    aten/src/ATen/native/Loss.cpp, binary_cross_entropy_with_logits.
    """
    logits: torch.Tensor = call.args[0]
    yield logits.nbytes
    if call.arg(4, "reduction", 1):
        yield logits.nbytes
    yield call.out


RECIPES: dict[Any, Recipe] = {
    aten.native_dropout.default: _dropout,
    aten.isinf.default: _isinf,
    aten._softmax_backward_data.default: _softmax_backward,
    aten._safe_softmax.default: _safe_softmax,
    aten.nll_loss_backward.default: _nll_loss_backward,
    aten.mse_loss.default: _mse_loss,
    aten.binary_cross_entropy_with_logits.default: _bce_with_logits,
}
