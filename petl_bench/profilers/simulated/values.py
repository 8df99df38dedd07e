"""Operators whose answer depends on values, where nothing has any.

A question (`if mask.all()`) is answered "no": false or zero says that there is padding and that
nothing overflowed, as in our own batches. A mask chooses everything: what is indexed by it is as
large as it can be. Experts that share the rows of one product, however the router shares them out,
give a result of one size (`_grouped_mm`, which transformers' mixtures of experts use by default).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx.experimental._config
from torch.distributions import Distribution
from torch.utils.flop_counter import flop_registry, register_flop_formula

from petl_bench.deferral import KNOWN
from petl_bench.profilers.simulated.kernels import sparse

aten = torch.ops.aten


@contextmanager
def masks_choose_all() -> Iterator[None]:
    """Inside, `nonzero` of a tensor without data finds every element; distributions are sound."""
    config: Any = torch.fx.experimental._config
    before, validates = config.meta_nonzero_assume_all_nonzero, Distribution._validate_args
    config.meta_nonzero_assume_all_nonzero = True
    Distribution.set_default_validate_args(False)
    try:
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # they are of values, too
            yield
    finally:
        config.meta_nonzero_assume_all_nonzero = before
        Distribution.set_default_validate_args(validates)


def _no(tensor: torch.Tensor) -> bool | int:
    if not tensor.is_meta:
        return aten._local_scalar_dense.default(tensor)  # type: ignore[no-any-return]
    return False if tensor.dtype is torch.bool else 0


def _grouped_mm(a: torch.Tensor, b: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Without data it takes bf16 alone; CUDA multiplies other types group by group.

    aten/src/ATen/native/cuda/GroupedBlas.cpp, _grouped_mm_cuda.
    """
    product = aten._grouped_mm.default
    if not a.is_meta or a.dtype is torch.bfloat16:
        return product(a, b, *args, **kwargs)  # type: ignore[no-any-return]
    like: torch.Tensor = product(a.bfloat16(), b.bfloat16(), *args, **kwargs)
    return torch.empty_strided(like.shape, like.stride(), dtype=a.dtype, device="meta")


def _not_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Two tensors of one form differ somewhere."""
    return not one.is_meta and aten.equal.default(one, other)


def _to_copy(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """To the host, and so to know its values, goes what was set up with some."""
    to = kwargs.get("device")
    if tensor.is_meta and to is not None and to.type == "cpu" and tensor in KNOWN:
        tensor = KNOWN[tensor]
    copy: torch.Tensor = aten._to_copy.default(tensor, *args, **kwargs)
    return copy


def _copy(to: torch.Tensor, source: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The host keeps the values that it had."""
    if source.is_meta and not to.is_meta:
        return to
    return aten.copy_.default(to, source, *args, **kwargs)  # type: ignore[no-any-return]


def _unique(
    source: torch.Tensor,
    _sorted: bool = True,  # noqa: FBT001, FBT002 - the library's own signature, as below
    return_inverse: bool = False,  # noqa: FBT001, FBT002
    return_counts: bool = False,  # noqa: FBT001, FBT002
) -> tuple[torch.Tensor, ...]:
    """All elements differ."""
    if not source.is_meta:
        found: tuple[torch.Tensor, ...] = aten._unique2.default(
            source, _sorted, return_inverse, return_counts
        )
        return found
    places = source.new_empty(source.shape if return_inverse else 0, dtype=torch.int64)
    counts = source.new_empty(source.numel() if return_counts else 0, dtype=torch.int64)
    return source.new_empty(source.numel()), places, counts


def _block_diag(blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """As meta has it, which makes a tensor for each block, and takes its time."""
    first = blocks[0]
    if not first.is_meta or first.dim() != 2 or not _alike(blocks):  # noqa: PLR2004
        return aten.block_diag.default(blocks)  # type: ignore[no-any-return]
    rows, columns = first.shape
    return first.new_empty((len(blocks) * rows, len(blocks) * columns))


def _stack(parts: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Likewise."""
    first = parts[0]
    if not first.is_meta or not _alike(parts):
        return aten.stack.default(parts, dim)  # type: ignore[no-any-return]
    place = dim % (first.dim() + 1)
    return first.new_empty((*first.shape[:place], len(parts), *first.shape[place:]))


def _alike(parts: Sequence[torch.Tensor]) -> bool:
    first = parts[0]
    return all(part.shape == first.shape and part.dtype is first.dtype for part in parts)


ANSWERS: Mapping[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: _no,
    aten._grouped_mm.default: _grouped_mm,
    aten._to_copy.default: _to_copy,
    aten.copy_.default: _copy,
    aten.equal.default: _not_equal,
    aten._unique2.default: _unique,
    aten.block_diag.default: _block_diag,
    aten.stack.default: _stack,
    **sparse.ANSWERS,
}
"""What runs in an operator's place."""


if aten._grouped_mm not in flop_registry:

    @register_flop_formula(aten._grouped_mm)
    def _grouped_mm_flops(
        a_shape: torch.Size, b_shape: torch.Size, *args: Any, **kwargs: Any
    ) -> int:
        """Every row meets one expert; of a gradient of experts, every row one outer product."""
        del args, kwargs
        batch = a_shape[0] if len(a_shape) == len(b_shape) == 3 else 1  # noqa: PLR2004
        return int(2 * batch * a_shape[-2] * a_shape[-1] * b_shape[-1])
