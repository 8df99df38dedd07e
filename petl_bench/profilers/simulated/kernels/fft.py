"""Fourier transforms: what stands around cuFFT.

Source: aten/src/ATen/native/cuda/SpectralOps.cpp. Not knowable: the work area of a plan, which
PyTorch takes from its allocator for as long as a transform runs. cuFFT tells its size on the card
alone (cufftXtMakePlanMany), and its documentation only that powers of two need little, and sizes
with large prime factors up to eight times as much.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from petl_bench.profilers.simulated.kernels.recipe import Call, Recipe, Step

aten = torch.ops.aten

_MAX_DIMS = 3  # of one plan


def _c2c(call: Call) -> Iterator[Step]:
    """Up to three dimensions at once."""
    source, dims = call.args[:2]
    yield call.out
    if len(dims) > _MAX_DIMS:
        yield call.out.nbytes
    yield from _copy(source, dims)


def _r2c(call: Call) -> Iterator[Step]:
    """From one dimension to the others in a second buffer, where they are the first ones."""
    source, dims = call.args[:2]
    yield call.out
    if _at_once(dims):
        yield from _copy(source, dims)
    else:
        yield from _copy(source, dims[-1:])
        yield call.out.nbytes


def _c2r(call: Call) -> Iterator[Step]:
    """What is transformed may be overwritten, so it is a copy, or the other dimensions' result."""
    yield call.out
    yield call.args[0].nbytes


def _at_once(dims: Sequence[int]) -> bool:
    """use_optimized_cufft_path."""
    return len(dims) <= _MAX_DIMS and list(dims[:2]) != [0, 1]


def _copy(source: torch.Tensor, dims: Sequence[int]) -> Iterator[Step]:
    """Of an input whose other dimensions cannot be one (_exec_fft)."""
    last = [dim % source.dim() for dim in dims]
    batch = [dim for dim in range(source.dim()) if dim not in last]
    batch.sort(key=source.stride, reverse=True)
    ordered = source.permute(*batch, *last)
    together = ordered.reshape(-1, *ordered.shape[len(batch) :])
    if together.untyped_storage()._cdata != source.untyped_storage()._cdata:
        yield together.nbytes


RECIPES: dict[Any, Recipe] = {
    aten._fft_c2c.default: _c2c,
    aten._fft_r2c.default: _r2c,
    aten._fft_c2r.default: _c2r,
}
