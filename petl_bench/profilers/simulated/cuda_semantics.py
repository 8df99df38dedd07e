"""Where CUDA's kernels keep or make other tensors than meta's or the CPU's.

Each rule names its source. Three kinds: functions that CUDA runs as another operator
(`CudaKernels`), scratch that a CUDA kernel allocates beside its outputs (`SCRATCH`), and what a
dispatch mode itself changes (`adds_in_place`).

Attention has a file of its own, attention_kernels.py. Not modelled: torch.nn.functional.rms_norm,
which meta decomposes (transformers write theirs out), convolutions' workspaces, and the temporary
storage of cub's sorts.
"""

import math
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

from petl_bench.profilers.simulated import attention_kernels, autocast
from petl_bench.profilers.simulated.attention_kernels import attention

aten = torch.ops.aten

GEMMS = frozenset({aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default})
"""Operators that run on cuBLAS and so need its workspace."""

# --- scratch ---------------------------------------------------------------------------------


def _softmax_backward(args: Sequence[Any]) -> Iterator[int]:
    """`tmp = grad * output`. aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out."""
    yield args[0].nbytes


def _embedding_backward(args: Sequence[Any]) -> Iterator[int]:
    """Sort buffers and one fp32 row a partial segment, beyond 3,072 indices.

    aten/src/ATen/native/cuda/Embedding.cu, embedding_dense_backward_cuda, and
    EmbeddingBackwardKernel.cu, embedding_backward_cuda_kernel (NROWS_PER_THREAD = 10). The
    temporary storage of cub's radix sort, of the order of one index array, is left out.
    """
    grad, indices, num_weights = args[:3]
    n = indices.numel()
    if n <= 3072:  # noqa: PLR2004 - small inputs take a kernel that needs no scratch
        return
    index_bytes = n * indices.element_size()
    yield from (index_bytes, index_bytes, index_bytes)  # range, sorted_indices, orig_indices
    segments = min(n, num_weights)
    partial_segments = n // 10 + segments
    yield from (segments * indices.element_size(),) * 3  # offsets, partials, their offsets
    yield partial_segments * indices.element_size()
    yield partial_segments * grad.shape[-1] * 4


def _index_put(args: Sequence[Any]) -> Iterator[int]:
    """Accumulating by index sorts: linear index, its sorted copy, range and order, int64 each.

    aten/src/ATen/native/cuda/Indexing.cu, index_put_with_sort_kernel. cub's own storage, of the
    order of one of them, is left out.
    """
    indices, accumulate = args[1], args[3] if len(args) > 3 else False  # noqa: PLR2004
    if accumulate:
        shapes = (index.shape for index in indices if index is not None)
        count = math.prod(torch.broadcast_shapes(*shapes))
        yield from (count * 8,) * 4


def _isinf(args: Sequence[Any]) -> Iterator[int]:
    """`self.abs() == inf`. aten/src/ATen/native/TensorCompare.cpp, isinf."""
    yield args[0].nbytes


SCRATCH: dict[Any, Callable[[Sequence[Any]], Iterator[int]]] = {
    aten._softmax_backward_data.default: _softmax_backward,
    aten.embedding_dense_backward.default: _embedding_backward,
    aten.index_put.default: _index_put,
    aten.index_put_.default: _index_put,
    aten._unsafe_index_put.default: _index_put,
    aten._index_put_impl_.default: _index_put,
    aten.isinf.default: _isinf,
    **attention_kernels.SCRATCH,
}
"""Bytes that an operator's CUDA kernel allocates beside its outputs, in order; freed on return."""


# --- functions that CUDA runs as another operator ----------------------------------------------


class CudaKernels(TorchFunctionMode):
    """Sends dropout and attention to the operators that they are on a card; and `others`."""

    def __init__(
        self,
        compute_capability: tuple[int, int] = (8, 0),
        others: Mapping[Any, Callable[..., Any]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._replaced: dict[Any, Callable[..., Any]] = {
            F.dropout: fused_dropout,
            F.softmax: _softmax,
            F.scaled_dot_product_attention: partial(
                autocast.as_one, partial(attention, compute_capability)
            ),
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
    if dim is not None and input.dtype is torch.float16 and dtype is torch.float32:
        return torch._softmax(input, dim, half_to_float=True)
    return F.softmax(input, dim, _stacklevel, dtype)


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


def adds_in_place(args: Sequence[Any]) -> bool:
    """Whether autograd, summing gradients, would reuse the first one's memory.

    It does when it holds the last reference to a dense tensor and its storage
    (torch/csrc/autograd/input_buffer.cpp, can_accumulate_inplace), but never under a dispatch
    mode. Reference counts seen from inside the mode are compared with those of a gradient that
    is known to be the last of its kind.
    """
    old, new = args[0], args[1]
    if not (isinstance(new, torch.Tensor) and new.shape == old.shape and new.dtype == old.dtype):
        return False
    if torch.is_grad_enabled() or not _is_dense(old):
        return False
    return _uses(old) == last_reference()


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
