"""Sparse tensors of coordinates: what their CUDA kernels allocate, and what meta cannot make.

Sources, in aten/src/ATen/native: sparse/cuda/SparseCUDATensor.cu, coalescing;
sparse/cuda/SparseCUDATensorMath.cu, adding to a dense tensor; sparse/SparseTensorMath.cpp, masking
a dense one; sparse/FlattenIndicesCommon.h; TensorConversions.cpp, dense copies. Coordinates are
taken to be all different. Left out: what masking one sparse tensor by another borrows, and, since
the library tells it on the card alone, the buffer of cuSPARSE's products (cusparseSpMM).

Legend: N coordinates that have a value.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from petl_bench.profilers.simulated.kernels import cub
from petl_bench.profilers.simulated.kernels.recipe import FREE, Call, Free, Recipe, Step
from petl_bench.profilers.simulated.remembering import remembering

aten = torch.ops.aten

_LONG, _INT = 8, 4  # bytes


# --- in the place of operators -------------------------------------------------------------------


def _on_meta(operator: Any, made: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """`operator`, or `made` in its place where an argument is a sparse tensor without data."""
    dense = remembering(operator)

    def run(*args: Any, **kwargs: Any) -> Any:
        for arg in args[:3]:
            if isinstance(arg, torch.Tensor) and arg.is_sparse and arg.is_meta:
                return made(*args)
        return dense(*args, **kwargs)

    return run


def _coalesced(source: torch.Tensor) -> torch.Tensor:
    indices = torch.empty_like(source._indices())
    return _like(source, indices, torch.empty_like(source._values()), coalesced=True)


def _masked(source: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    values = torch.empty_like(mask._values(), dtype=source.dtype)
    return _like(mask, torch.empty_like(mask._indices()), values, coalesced=mask.is_coalesced())


def _like(
    source: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, *, coalesced: bool
) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        indices, values, source.shape, check_invariants=False, is_coalesced=coalesced
    )


def _multiplied(*args: torch.Tensor) -> torch.Tensor:
    sparse, dense = args if len(args) == 2 else args[1:3]  # noqa: PLR2004
    return dense.new_empty((sparse.shape[0], dense.shape[1]))


ANSWERS: Mapping[Any, Callable[..., Any]] = {
    **{
        product: _on_meta(product, _multiplied)
        for product in (aten.mm.default, aten.addmm.default, aten._sparse_addmm.default)
    },
    aten._coalesce.default: _on_meta(aten._coalesce.default, _coalesced),
    aten.sparse_mask.default: _on_meta(aten.sparse_mask.default, _masked),
    aten.add_.Tensor: _on_meta(aten.add_.Tensor, lambda target, *_: target),
    aten._to_dense.default: _on_meta(
        aten._to_dense.default,
        lambda source, *_: torch.empty(source.shape, dtype=source.dtype, device=source.device),
    ),
}
"""What runs in an operator's place."""


# --- what is allocated ---------------------------------------------------------------------------


def product(call: Call) -> Iterator[Step]:
    """Rows compressed, and rows and columns as int32 (s_addmm_out_sparse_dense_cuda_worker)."""
    sparse, _ = call.args[:2] if len(call.args) == 2 else call.args[1:3]  # noqa: PLR2004
    N = sparse._nnz()
    yield call.out
    if not sparse.is_coalesced():
        yield from _sorted(call, sparse)
        yield N * sparse.element_size()
        yield sparse._indices().nbytes
        yield from (Free(0), Free(0), Free(0))
    yield (sparse.shape[0] + 1) * _INT
    yield N * _INT
    yield FREE
    yield N * _INT


def _coalesce(call: Call) -> Iterator[Step]:
    """_coalesce_sparse_cuda."""
    yield from _sorted(call, call.args[0])
    yield call.out._values()
    yield call.out._indices()


def _sorted(call: Call, sparse: torch.Tensor) -> Iterator[Step]:
    """Coordinates as one number each, with their places."""
    N = sparse._nnz()
    yield N * _LONG  # one number for each coordinate
    yield N * _LONG  # where each came from
    yield N * _LONG  # where each one's run begins
    yield cub.merge_sort_bytes(N, key_bytes=_LONG, value_bytes=_LONG)
    yield FREE
    yield cub.unique_by_key_bytes(call.card, N, key_bytes=_LONG)
    yield FREE


def _add_(call: Call) -> Iterator[Step]:
    """add_out_dense_sparse_cuda, of a sparse tensor; of any other, in place."""
    target, source = call.args[:2]
    if isinstance(source, torch.Tensor) and source.is_sparse:
        yield from _added(target, source)
    else:
        yield call.out


def _added(target: torch.Tensor, source: torch.Tensor) -> Iterator[Step]:
    """In the wider of the two types: the dense tensor twice, its sum and what is added to."""
    N, common = source._nnz(), torch.result_type(target, source)
    if target.dtype is not common:
        yield target.numel() * common.itemsize
        yield target.numel() * common.itemsize
    if source.dtype is not common:
        yield N * common.itemsize
    if not source.is_coalesced():
        yield N * _LONG  # one number for each coordinate


def _to_dense(call: Call) -> Iterator[Step]:
    """Zeros, added to (sparse_to_dense)."""
    yield call.out
    yield from _added(call.out, call.args[0])


def _sparse_mask(call: Call) -> Iterator[Step]:
    """A one, expanded, stands for the mask; multiplied with what lies there in the dense tensor.

    intersection_binary_op_sparse_dense_out.
    """
    source, mask = call.args[:2]
    if not source.is_sparse:
        yield mask.element_size()
        yield mask._nnz() * source.element_size()
    yield call.out._indices()
    yield call.out._values()


RECIPES: dict[Any, Recipe] = {
    aten._coalesce.default: _coalesce,
    aten._sparse_addmm.default: product,
    aten.add_.Tensor: _add_,
    aten._to_dense.default: _to_dense,
    aten.sparse_mask.default: _sparse_mask,
}
