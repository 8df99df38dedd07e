"""scaled_dot_product_attention as CUDA runs it: which kernel, what it keeps, what it borrows.

Sources, all in aten/src/ATen/native/transformers: which kernel, cuda/sdp_utils.cpp,
select_sdp_backend; the call around it, attention.cpp, scaled_dot_product_attention; the kernels,
cuda/attention.cu, cuda/attention_backward.cu and cuda/flash_attn/flash_api.cpp.

Left out: cuDNN, which torch prefers for 16-bit types on Hopper and later since 2.10. It keeps what
the memory-efficient kernel keeps, but for a log-sum-exp without padding; what its plans borrow is
not documented.

Legend: B batch, H heads, S query length, L key length, K head size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

aten = torch.ops.aten

HOST_OUTPUTS: dict[Any, tuple[int, ...]] = {
    # Philox seed and offset are CPU scalars outside CUDA graphs; meta puts them on the device.
    aten._scaled_dot_product_efficient_attention.default: (2, 3),
}
"""Positions of outputs that CUDA leaves in host memory."""


def attention(  # noqa: PLR0917 - the library's own signature
    compute_capability: tuple[int, int],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> torch.Tensor:
    """[B, H, S, K] by the first kernel that can: flash, memory-efficient, math."""
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = _additive(attn_mask, query)
    if _flash_can(compute_capability, query, attn_mask):
        return _flash(query, key, value, dropout_p, is_causal=is_causal, scale=scale)
    if enable_gqa:
        key, value = (_repeat_heads(t, query.shape[-3]) for t in (key, value))
    if _efficient_can(compute_capability, query, value):
        bias = None if attn_mask is None else _aligned_bias(attn_mask, query, key)
        inputs = [query, key, value]
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
        out: torch.Tensor = aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, keep, dropout_p, is_causal, scale=scale
        )[0]
        return out
    return _math(query, key, value, attn_mask, dropout_p, is_causal=is_causal, scale=scale)


def _flash_can(
    compute_capability: tuple[int, int], query: torch.Tensor, mask: torch.Tensor | None
) -> bool:
    """can_use_flash_attention: 16 bit, no mask, a head size up to 256, Ampere or later."""
    half = query.dtype in {torch.float16, torch.bfloat16}
    small = query.shape[-1] <= 256  # noqa: PLR2004 - check_head_dim_size_flash
    return half and mask is None and small and compute_capability >= (8, 0)


def _efficient_can(
    compute_capability: tuple[int, int], query: torch.Tensor, value: torch.Tensor
) -> bool:
    """can_use_mem_efficient_attention: the head size a multiple of what its GEMMs load at once."""
    old = compute_capability < (8, 0)
    if old and query.dtype is torch.bfloat16:
        return False
    fp32 = query.element_size() == 4  # noqa: PLR2004 - bytes
    multiple = (1 if old else 4) if fp32 else 8  # minimum_gemm_alignment
    return all(t.shape[-1] % multiple == 0 for t in (query, value))


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float,
    *,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """Heads are padded to a multiple of 8 (pad_last_dim) and the result is sliced."""
    head = query.shape[-1]
    scale = head**-0.5 if scale is None else scale
    if head % 8:
        query, key, value = (F.pad(t, (0, 8 - head % 8)) for t in (query, key, value))
    out: torch.Tensor = aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, return_debug_mask=False, scale=scale
    )[0]
    return out[..., :head]


def _math(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    dropout_p: float,
    *,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """_scaled_dot_product_attention_math."""
    root = math.sqrt(scale if scale is not None else query.shape[-1] ** -0.5)
    if is_causal:
        allowed = torch.ones(
            query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device
        ).tril()
        bias = _additive(allowed, query)
    scores = (query * root) @ (key.transpose(-2, -1) * root)
    if bias is not None:
        scores = scores.add_(bias)
    weights = torch.softmax(scores, -1)
    if dropout_p > 0:
        weights = torch.native_dropout(weights, dropout_p, train=True)[0]
    return weights @ value


def _additive(mask: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """0 where a boolean mask allows and -inf elsewhere (convert_boolean_attn_mask)."""
    zeros = torch.zeros_like(mask, dtype=query.dtype)
    return zeros.masked_fill_(mask.logical_not(), -math.inf)


def _aligned_bias(bias: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Expanded to [B, H, S, L]; rows padded to a multiple of 8 (preprocess_mask, pad_bias)."""
    B, H, S, _ = query.shape
    L = key.shape[-2]
    if L % 8:
        bias = F.pad(bias, (0, 8 - L % 8))[..., :L]
    return bias.expand(B, H, S, L)


def _repeat_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Key or value heads repeated for grouped queries (pre_process_group_query_attention_input)."""
    return tensor.repeat_interleave(heads // tensor.shape[-3], dim=-3)


def _efficient_backward(args: Sequence[Any]) -> Iterator[int]:
    """Delta = sum(grad * out), fp32 [B, H, S] (_efficient_attention_backward).

    The kernel's own workspace is left out.
    """
    B, H, S, _ = args[0].shape
    yield B * H * S * 4


def _flash_backward(args: Sequence[Any]) -> Iterator[int]:
    """softmax_d and dq_accum in fp32, and key and value gradients of expanded heads (mha_bwd)."""
    B, H, S, K = args[1].shape
    key = args[2]
    rounded_queries = _round_up(S, 128)
    rounded_head = _round_up(K, 32 if K <= 128 else 64)  # noqa: PLR2004 - as the kernel's tiles
    yield B * H * rounded_queries * 4
    yield B * rounded_queries * H * rounded_head * 4
    if key.shape[1] != H:
        expanded = B * key.shape[2] * H * K * key.element_size()
        yield from (expanded, expanded)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


SCRATCH: dict[Any, Callable[[Sequence[Any]], Iterator[int]]] = {
    aten._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,
    aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
}
"""As in cuda_semantics."""
