"""Scratch of CUDA's norms, and a form without data of the one that only CUDA has.

LayerNorm's and RMSNorm's statistics are fp32 whatever the input's type; their results need no
recipe, since meta's kernels say the same. Sources, in aten/src/ATen/native/cuda:
layer_norm_kernel.cu and group_norm_kernel.cu. Left out: batch norm, most of which is cuDNN's.

Legend: M rows, N elements a row.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import library as operators

from petl_bench.profilers.simulated.kernels.recipe import (
    Call,
    Free,
    Recipe,
    Step,
    ceil_div,
    tensors,
)
from petl_bench.profilers.simulated.kernels.reduce_kernel import scratch

aten = torch.ops.aten


def _row_norm_backward(call: Call) -> Iterator[Step]:
    """Beyond 65,536 narrow rows, the weight's and the bias's gradients are summed in two steps.

    LaunchGammaBetaBackwardCUDAKernel: partial sums of 32 rows each, but 2^20 elements at most,
    then `sum(0)`, whose result takes the place of what had been made for it.
    """
    grad_input, *others = list(tensors(call.out))
    yield grad_input
    source: torch.Tensor = call.args[1]
    N = math.prod(call.args[2])
    M = source.numel() // N
    columns = N // 32
    narrow = columns < call.card.multiprocessors // 2
    if M <= 65_536 or not narrow:  # noqa: PLR2004
        yield from others
        return
    parts = min(ceil_div(M, 32), 32_768 // ceil_div(N, 32))
    partial = source.new_empty(parts, N)
    yield from (other.nbytes for other in others)
    yield from (partial.nbytes for _ in others)
    for other in others:
        yield other
        yield from scratch(call.card, partial, [0])
        yield Free(0)


def _group_norm(call: Call) -> Iterator[Step]:
    """One factor and one summand a channel, fp32; 16-bit inputs' statistics in fp32, too.

    GroupNormKernelImplInternal.
    """
    yield from call.out
    _, mean, _ = call.out
    if mean.element_size() == 2:  # noqa: PLR2004
        yield mean.numel() * 4
        yield mean.numel() * 4
    N, C = call.args[3:5]
    yield N * C * 4
    yield N * C * 4


def _group_norm_backward(call: Call) -> Iterator[Step]:
    """Sums of channels and of groups, fp32. GroupNormBackwardKernelImplInternal."""
    yield from tensors(call.out)
    N, C = call.args[5:7]
    groups = call.args[8]
    yield N * C * 4
    yield N * C * 4
    yield N * groups * 4
    yield N * groups * 4
    yield N * C * 4
    yield Free(-2)
    yield Free(-2)


RECIPES: dict[Any, Recipe] = {
    aten.native_layer_norm_backward.default: _row_norm_backward,
    aten._fused_rms_norm_backward.default: _row_norm_backward,
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _group_norm_backward,
}


# --- RMSNorm, which is one kernel on CUDA and a dozen operators elsewhere -------------------------


def _fused_rms_norm(
    x: torch.Tensor,
    shape: Sequence[int],
    weight: torch.Tensor | None,
    eps: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """_fused_rms_norm_cuda: the result, and in fp32 each row's reciprocal root mean square."""
    del weight, eps
    lead = x.dim() - len(shape)
    rows = [*x.shape[:lead], *(1 for _ in shape)]
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    return result, x.new_empty(rows, dtype=torch.float32)


_LIBRARY = operators.Library("aten", "IMPL")
if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_fused_rms_norm", "Meta"):
    # Library.impl refuses what has a composite form. With a kernel of their own, tensors without
    # data take autograd's formula for the one operator, as CUDA's do.
    _LIBRARY.m.impl("_fused_rms_norm", "Meta", _fused_rms_norm, False)  # type: ignore[union-attr]


def rms_norm(
    input: torch.Tensor,  # noqa: A002 - the library's own name
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    """One kernel where input and weight are of one type; since torch 2.9.

    aten/src/ATen/native/layer_norm.cpp, rms_norm_symint.
    """
    if weight is not None and weight.dtype is not input.dtype:
        return torch.rms_norm(input, normalized_shape, weight, eps)
    result: torch.Tensor = aten._fused_rms_norm(input, normalized_shape, weight, eps)[0]
    return result
