"""scaled_dot_product_attention as CUDA runs it: which kernel, and what stands around it.

Sources, all in aten/src/ATen/native/transformers: which kernel, cuda/sdp_utils.cpp,
select_sdp_backend, as torch 2.13 has it (2.11 sends some dropouts to cuDNN that 2.12 does not); the
call around it, attention.cpp, scaled_dot_product_attention and _scaled_dot_product_attention_math.
What each kernel keeps and borrows is in attention_scratch.py.

Legend: B batch, H heads, S query length, L key length, K head size.
"""

import math
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

import torch
from torch.nn import functional as F

from petl_bench.cards import Card

aten = torch.ops.aten


class Kernel(Enum):
    """One of the four ways."""

    CUDNN = auto()
    FLASH = auto()
    EFFICIENT = auto()
    MATH = auto()


def attention(  # noqa: PLR0917 - the library's own signature
    card: Card,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> torch.Tensor:
    """[B, H, S, K] by the first kernel that can."""
    del enable_gqa  # the numbers of heads say it
    kernel = choose(card, (query, key, value), attn_mask, dropout_p, is_causal=is_causal)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = _additive(attn_mask, query)
    if kernel is Kernel.MATH:
        return _math(query, key, value, attn_mask, dropout_p, is_causal=is_causal, scale=scale)
    if kernel is Kernel.FLASH:
        return _flash(query, key, value, dropout_p, is_causal=is_causal, scale=scale)
    inputs = [query, key, value]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    if kernel is Kernel.CUDNN:
        return _first(
            aten._scaled_dot_product_cudnn_attention(
                *inputs, attn_mask, keep, dropout_p, is_causal, return_debug_mask=False, scale=scale
            )
        )
    if attn_mask is not None:
        attn_mask = _aligned_bias(attn_mask, query, key)
    return _first(
        aten._scaled_dot_product_efficient_attention(
            *inputs, attn_mask, keep, dropout_p, is_causal, scale=scale
        )
    )


def choose(
    card: Card,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    dropout_p: float,
    *,
    is_causal: bool,
) -> Kernel:
    """The first of cuDNN's, flash, memory-efficient and math that can (select_sdp_backend)."""
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    if _cudnn_can(card, inputs, mask, dropout_p):
        return Kernel.CUDNN
    if mask is None and _flash_can(card, inputs, dropout_p, is_causal=is_causal, trains=trains):
        return Kernel.FLASH
    same_heads = len({t.shape[-3] for t in inputs}) == 1
    if same_heads and _efficient_can(card, inputs):
        return Kernel.EFFICIENT
    return Kernel.MATH


def _cudnn_can(
    card: Card,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    dropout_p: float,
) -> bool:
    """can_use_cudnn_attention; preferred on Hopper (check_prefer_cudnn_attention), torch 2.10.

    Dropout comes in steps of 1/16, so 0.1 is not among them (check_cudnn_dropout, torch 2.12).
    Masks that are trained, as T5's biases are, it cannot take (check_attn_mask_shape).
    """
    query, key, _ = inputs
    if card.compute_capability != (9, 0) or not _is_half(query):
        return False
    if mask is not None and mask.requires_grad:
        return False
    fits = all(t.shape[-1] % 8 == 0 and t.shape[-1] <= 256 for t in inputs)  # noqa: PLR2004
    one_query = dropout_p > 0 and query.shape[-2] == 1
    return fits and (dropout_p * 16).is_integer() and key.shape[-2] != 1 and not one_query


def _flash_can(
    card: Card,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    dropout_p: float,
    *,
    is_causal: bool,
    trains: bool,
) -> bool:
    """can_use_flash_attention: 16 bit, heads of one size up to 256, Ampere or later."""
    query, key, _ = inputs
    head = query.shape[-1]
    if card.compute_capability < (8, 0) or not _is_half(query):
        return False
    if head > 256 or any(t.shape[-1] != head for t in inputs):  # noqa: PLR2004
        return False
    if is_causal and query.shape[-2] != key.shape[-2]:
        return False
    # Too little shared memory (check_requires_grad_and_head_dim_gt192_constraints_...).
    small = card.compute_capability == (8, 6)
    return not (trains and small and (192 < head <= 224 or (head > 224 and dropout_p > 0)))  # noqa: PLR2004


def _efficient_can(card: Card, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> bool:
    """can_use_mem_efficient_attention: the head size a multiple of what its GEMMs load at once."""
    query, key, value = inputs
    old = card.compute_capability < (8, 0)
    if old and query.dtype is torch.bfloat16:
        return False
    fp32 = query.element_size() == 4  # noqa: PLR2004 - bytes
    multiple = (1 if old else 4) if fp32 else 8  # minimum_gemm_alignment
    same = query.shape[-1] == key.shape[-1]
    return same and all(t.shape[-1] % multiple == 0 for t in (query, value))


def _is_half(tensor: torch.Tensor) -> bool:
    return tensor.dtype in {torch.float16, torch.bfloat16}


def _first(results: Sequence[Any]) -> torch.Tensor:
    """The result; the others go in their order, as a C++ tuple's do."""
    out: torch.Tensor
    out, *others = results
    del results
    others.reverse()  # a list's go from its end
    return out


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
    out = _first(
        aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, return_debug_mask=False, scale=scale
        )
    )
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
    """_scaled_dot_product_attention_math, in fp32 whatever the input; locals go as there."""
    dtype = query.dtype
    if _is_half(query):
        query, key, value = (t.float() for t in (query, key, value))
    root = math.sqrt(scale if scale is not None else query.shape[-1] ** -0.5)
    scaled = query * root
    if is_causal:
        shape = query.shape[-2], key.shape[-2]
        allowed = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
        bias = _additive(allowed, query)
        del allowed
    groups = query.shape[-3] // key.shape[-3]
    if groups > 1:  # pre_process_group_query_attention_input
        keys, values = (t.repeat_interleave(groups, dim=-3) for t in (key, value))
    else:
        keys, values = key, value
    scores = scaled @ (keys.transpose(-2, -1) * root)
    if bias is not None:
        scores = scores.add_(bias)
    weights = torch._safe_softmax(scores, -1)
    del scores
    if dropout_p > 0:
        weights = torch.native_dropout(weights, dropout_p, train=True)[0]
    returned = weights.to(dtype)  # the second result, which the caller throws away
    out = weights @ values
    result = out.to(dtype)
    del out, weights, scaled, bias, values, keys, value, key, query, returned
    return result


def _additive(mask: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """0 where a boolean mask allows and -inf elsewhere (convert_boolean_attn_mask)."""
    zero = query.new_zeros(())
    blocked = query.new_full((), -math.inf)
    bias = torch.where(mask, zero, blocked)
    del blocked, zero
    return bias


def _aligned_bias(bias: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Expanded to [B, H, S, L]; rows padded to a multiple of 8 (preprocess_mask, pad_bias)."""
    B, H, S, _ = query.shape
    L = key.shape[-2]
    if L % 8:
        bias = F.pad(bias, (0, 8 - L % 8))[..., :L]
    return bias.expand(B, H, S, L)
