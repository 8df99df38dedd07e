"""Where CUDA runs other operators than meta or the CPU, and what watching operators changes.

Two kinds of rule, each with its source: functions that CUDA runs as another operator
(`CudaKernels`), and what a dispatch mode itself changes (`in_place`). What CUDA's kernels allocate
once an operator is chosen is in kernels/.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib import import_module
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

from petl_bench.cards import CARDS, DEFAULT_CARD, Card
from petl_bench.profilers.simulated import autocast
from petl_bench.profilers.simulated.kernels.attention import attention
from petl_bench.profilers.simulated.kernels.norms import rms_norm

aten = torch.ops.aten

GEMMS = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten._addmm_activation.default,
        aten.bmm.default,
        aten.baddbmm.default,
        aten.mv.default,
        aten.addmv.default,
        aten.dot.default,
    }
)
"""Operators that run on cuBLAS, or on cuBLASLt in the same workspace, and so need it."""

# --- functions that CUDA runs as another operator ----------------------------------------------


class CudaKernels(TorchFunctionMode):
    """Sends functions to the operators that they are on `card`; and `others`."""

    def __init__(
        self,
        card: Card = CARDS[DEFAULT_CARD],
        others: Mapping[Any, Callable[..., Any]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._replaced: dict[Any, Callable[..., Any]] = {
            F.dropout: fused_dropout,
            F.softmax: _softmax,
            F.log_softmax: _log_softmax,
            F.linear: partial(autocast.as_one, _linear),
            F.rms_norm: partial(autocast.as_one_in_fp32, rms_norm),
            torch.block_diag: block_diagonal,
            F.scaled_dot_product_attention: partial(autocast.as_one, partial(attention, card)),
            **others,
        }

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        replacement = self._replaced.get(func, func)
        return replacement(*args, **(kwargs or {}))


def fused_dropout(
    input: torch.Tensor,  # noqa: A002 - the library's own name
    p: float = 0.5,
    training: bool = True,  # noqa: FBT001, FBT002
    inplace: bool = False,  # noqa: FBT001, FBT002
) -> torch.Tensor:
    """Fused on CUDA, with a mask of one byte an element; elsewhere a mask of the input's dtype.

    aten/src/ATen/native/Dropout.cpp, is_fused_kernel_acceptable.
    """
    fused = training and 0 < p < 1 and not inplace
    if not fused:
        return F.dropout(input, p, training, inplace)
    return torch.native_dropout(input, p, train=True)[0]


def _softmax(
    input: torch.Tensor,  # noqa: A002 - the library's own name
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """From fp16 to fp32 in one kernel, without an fp32 copy of the input; not from bf16.

    aten/src/ATen/native/SoftMax.cpp, softmax.
    """
    if dim is not None and _is_widened(input, dtype):
        return torch._softmax(input, dim, half_to_float=True)
    return F.softmax(input, dim, _stacklevel, dtype)


def _log_softmax(
    input: torch.Tensor,  # noqa: A002 - the library's own name
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """As `_softmax`. aten/src/ATen/native/SoftMax.cpp, log_softmax."""
    if dim is not None and _is_widened(input, dtype):
        return torch._log_softmax(input, dim, half_to_float=True)
    return F.log_softmax(input, dim, _stacklevel, dtype)


def _is_widened(source: torch.Tensor, dtype: torch.dtype | None) -> bool:
    return source.dtype is torch.float16 and dtype is torch.float32


def _linear(
    input: torch.Tensor,  # noqa: A002 - the library's own name
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """A bias that cannot be part of the product is added in place, but not under a dispatch mode.

    aten/src/ATen/native/Linear.cpp, linear (isTensorSubclassLike).
    """
    if bias is None or input.dim() == 2 or input.is_contiguous():  # noqa: PLR2004
        return F.linear(input, weight, bias)
    return torch.matmul(input, weight.t()).add_(bias)


def block_diagonal(*blocks: torch.Tensor) -> torch.Tensor:
    """The same on CUDA, but for the time that a view for each block takes here in backward."""
    first = blocks[0]
    alike = first.dim() == 2 and all(block.shape == first.shape for block in blocks)  # noqa: PLR2004
    made: Callable[..., torch.Tensor] = _BlockDiagonal.apply if alike else torch.block_diag
    return made(*blocks)


class _BlockDiagonal(torch.autograd.Function):
    """Of blocks of one shape, whose gradients are views of the matrix's, all made by one operator.

    torch/csrc/autograd/FunctionsManual.cpp, block_diag_backward.
    """

    @staticmethod
    def forward(ctx: Any, *blocks: torch.Tensor) -> torch.Tensor:
        ctx.size = (len(blocks), *blocks[0].shape)
        matrix: torch.Tensor = torch.block_diag(*blocks)
        return matrix

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        (_, rows, columns), (down, across) = ctx.size, grad.stride()
        strides = (rows * down + columns * across, down, across)
        return grad.as_strided(ctx.size, strides, grad.storage_offset()).unbind()


@contextmanager
def foreach_by_default(device: str = "meta") -> Iterator[None]:
    """Optimizers and gradient clipping take their foreach form on `device`, as on CUDA.

    torch/utils/_foreach_utils.py, _get_foreach_kernels_supported_devices.
    """
    devices = [*_foreach_utils._get_foreach_kernels_supported_devices(), device]
    with ExitStack() as patches:
        for module in (_foreach_utils, import_module("torch.optim.optimizer")):
            for kind in ("foreach", "fused"):
                name = f"_get_{kind}_kernels_supported_devices"
                patches.enter_context(patch.object(module, name, lambda: devices))
        yield


# --- what a dispatch mode itself changes --------------------------------------------------------


IN_PLACE = {
    aten.add.Tensor: (aten.add_.Tensor, 0),
    aten.index_put.default: (aten.index_put_.default, 1),  # held by _unsafe_index_put, too
    aten.index_add.default: (aten.index_add_.default, 0),
    aten.scatter_add.default: (aten.scatter_add_.default, 0),
    aten.scatter.src: (aten.scatter_.src, 0),
}
"""What backward formulas do in place, but out of place for subclasses and under dispatch modes;
and how many more than autograd hold the tensor.

torch/csrc/autograd/input_buffer.cpp, can_accumulate_inplace, sums gradients;
FunctionsManual.cpp beside it fills zeros (areAnyTensorSubclassLike).
"""


def in_place(func: Any, args: Sequence[Any]) -> Any:
    """The operator that autograd would call if nobody watched.

    It reuses a dense tensor's memory when it holds the last reference to it and its storage.
    Reference counts seen from inside the mode are compared with those of a gradient that is known
    to be the last of its kind.
    """
    if func not in IN_PLACE or torch.is_grad_enabled() or not _is_dense(args[0]):
        return func
    if func is aten.add.Tensor and not _is_alike(args[0], args[1]):
        return func
    instead, holders = IN_PLACE[func]
    references, storages = last_reference()
    return instead if _uses(args[0]) == (references + holders, storages) else func


def _is_alike(old: torch.Tensor, new: Any) -> bool:
    return isinstance(new, torch.Tensor) and new.shape == old.shape and new.dtype == old.dtype


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one stretch of memory, each its own place in it."""
    stretch = 1
    dims = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    for stride, size in dims:
        if size != 1:
            if stride != stretch:
                return False
            stretch *= size
    return True


def _uses(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return tensor._use_count(), torch._C._storage_Use_Count(storage._cdata)  # type: ignore[attr-defined]


@cache
def last_reference() -> tuple[int, int]:
    """`_uses` of a gradient that nothing but autograd's buffer holds."""
    seen: list[tuple[int, int]] = []

    class Probe(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            del types
            if func is aten.add.Tensor and not torch.is_grad_enabled():
                seen.append(_uses(args[0]))
            return func(*args, **(kwargs or {}))

    x = torch.ones(2, requires_grad=True)
    with Probe(), torch.enable_grad():  # type: ignore[no-untyped-call]
        (x * 2 + x * 3).sum().backward()
    (uses,) = seen
    return uses
