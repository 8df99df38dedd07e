"""Systems of linear equations: what cuBLAS and triangular solves borrow.

Source: aten/src/ATen/native/cuda/linalg/BatchLinearAlgebra.cpp, lu_factor and lu_solve_kernel, and
BatchLinearAlgebraLibBlas.cpp. Not knowable: the buffers of cuSOLVER, which tells their size on the
card alone (cusolverDnXgetrf_bufferSize); it factorises a single matrix, and those from 512 on.

Legend: B systems, N unknowns, K right-hand sides.
"""

from collections.abc import Iterator
from typing import Any

import torch

from petl_bench.profilers.simulated.kernels.recipe import FREE, Call, Recipe, Step, tensors

aten = torch.ops.aten

_LONG = 8  # bytes of an int64, and of a pointer


def _solve(call: Call) -> Iterator[Step]:
    """linalg_solve_ex: a row-major matrix is factorised as its transpose."""
    matrix, right = call.args[:2]
    left = call.kwargs.get("left", True)
    yield from tensors(call.out)
    B, N = _batch(matrix), matrix.shape[-1]
    if B > 1 and N < 512:  # noqa: PLR2004 - up to there they are cuBLAS's
        yield B * _LONG  # where each matrix lies
        yield FREE
    columns = _as_columns(matrix, right, left=left)
    yield from _solved(matrix, columns, as_it_stands=matrix.is_contiguous() is not left)


def _lu_solve(call: Call) -> Iterator[Step]:
    """linalg_lu_solve, as backward has it."""
    factors, _, right = call.args[:3]
    left = call.kwargs.get("left", True)
    yield call.out
    columns = right if left else right.mT
    as_it_stands = call.kwargs.get("adjoint", False) is not left
    yield from _solved(factors, columns, as_it_stands=as_it_stands)


def _as_columns(matrix: torch.Tensor, right: torch.Tensor, *, left: bool) -> torch.Tensor:
    if right.dim() < matrix.dim():
        return right.unsqueeze(-1)
    return right if left else right.mT


def _solved(factors: torch.Tensor, right: torch.Tensor, *, as_it_stands: bool) -> Iterator[Step]:
    """Small ones by cuBLAS; others by a permutation and two triangular solves."""
    B, N, K = _batch(factors), *right.shape[-2:]
    small = N <= 16 if N == K else N <= 8  # noqa: PLR2004
    if small:
        yield B * _LONG  # where each factor lies
        yield B * _LONG  # and each right-hand side
        return
    yield B * N * _LONG  # the permutation
    if as_it_stands:  # and not transposed
        yield N * _LONG  # 0, 1, 2, ...
        yield B * N * _LONG  # its inverse
    yield right.nbytes  # permuted


def _batch(matrix: torch.Tensor) -> int:
    return matrix.shape[:-2].numel()


RECIPES: dict[Any, Recipe] = {
    aten._linalg_solve_ex.default: _solve,
    aten.linalg_lu_solve.default: _lu_solve,
}
