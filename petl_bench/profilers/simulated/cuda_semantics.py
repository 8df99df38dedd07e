"""Where CUDA's kernels keep or make other tensors than meta's or the CPU's.

Each rule names its source. Three kinds: functions that CUDA runs as another operator
(`CudaKernels`), scratch that a CUDA kernel allocates beside its outputs (`SCRATCH`), and what a
dispatch mode itself changes (`adds_in_place`).

Legend: B batch, H heads, S query length, L key length, K head size.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

GEMMS = frozenset({aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default})
"""Operators that run on cuBLAS and so need its workspace."""

HOST_OUTPUTS: dict[Any, tuple[int, ...]] = {
    # Philox seed and offset are CPU scalars outside CUDA graphs; meta puts them on the device.
    # aten/src/ATen/native/transformers/cuda/attention.cu, _efficient_attention_forward
    aten._scaled_dot_product_efficient_attention.default: (2, 3),
}
"""Positions of outputs that CUDA leaves in host memory."""


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


def _isinf(args: Sequence[Any]) -> Iterator[int]:
    """`self.abs() == inf`. aten/src/ATen/native/TensorCompare.cpp, isinf."""
    yield args[0].nbytes


def _efficient_attention_backward(args: Sequence[Any]) -> Iterator[int]:
    """Delta = sum(grad * out): fp32 [B, H, S]. The kernel's own workspace is left out.

    aten/src/ATen/native/transformers/cuda/attention_backward.cu, _efficient_attention_backward
    """
    B, H, S, _ = args[0].shape
    yield B * H * S * 4


SCRATCH: dict[Any, Callable[[Sequence[Any]], Iterator[int]]] = {
    aten._softmax_backward_data.default: _softmax_backward,
    aten.embedding_dense_backward.default: _embedding_backward,
    aten.isinf.default: _isinf,
    aten._scaled_dot_product_efficient_attention_backward.default: _efficient_attention_backward,
}
"""Bytes that an operator's CUDA kernel allocates beside its outputs, in order; freed on return."""


# --- functions that CUDA runs as another operator ----------------------------------------------


class CudaKernels(TorchFunctionMode):
    """Sends dropout and attention to the operators that they are on CUDA; and `others`."""

    def __init__(self, others: Mapping[Any, Callable[..., Any]] = MappingProxyType({})) -> None:
        super().__init__()
        self._replaced = {**_REPLACED, **others}

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


def _dropout(
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


def _attention(  # noqa: PLR0917 - the library's own signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> torch.Tensor:
    """The memory-efficient kernel where CUDA takes it, else the math one.

    aten/src/ATen/native/transformers/cuda/sdp_utils.cpp: flash refuses any attn_mask, which is
    the only kind of call that the backbones here make; memory-efficient asks that the head size
    be a multiple of 4 (fp32) or 8 (16 bit).
    """
    if attn_mask is None or is_causal or enable_gqa:
        raise NotImplementedError("attention without a mask is not simulated yet")
    aligned = 4 if query.element_size() == 4 else 8  # noqa: PLR2004
    if query.shape[-1] % aligned == 0 and value.shape[-1] % aligned == 0:
        bias = _aligned_bias(attn_mask, query, key)
        keep_logsumexp = torch.is_grad_enabled() and any(
            t.requires_grad for t in (query, key, value)
        )
        out: torch.Tensor = aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, keep_logsumexp, dropout_p, is_causal, scale=scale
        )[0]
        return out
    return _math_attention(query, key, value, attn_mask, dropout_p=dropout_p, scale=scale)


def _aligned_bias(bias: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Expanded to [B, H, S, L]; its rows padded to a multiple of 8 if they are not.

    aten/src/ATen/native/transformers/attention.cpp, preprocess_mask and pad_bias.
    """
    B, H, S, _ = query.shape
    L = key.shape[-2]
    if L % 8:
        bias = F.pad(bias, (0, 8 - L % 8))[..., :L]
    return bias.expand(B, H, S, L)


def _math_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    *,
    dropout_p: float,
    scale: float | None,
) -> torch.Tensor:
    """aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math."""
    root = math.sqrt(scale if scale is not None else query.shape[-1] ** -0.5)
    scores = (query * root) @ (key.transpose(-2, -1) * root)
    scores = scores.add_(bias)
    return _dropout(torch.softmax(scores, -1), dropout_p, training=dropout_p > 0) @ value


_REPLACED: dict[Any, Callable[..., Any]] = {
    F.dropout: _dropout,
    F.scaled_dot_product_attention: _attention,
}


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
