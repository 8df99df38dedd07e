"""What attention's kernels on CUDA keep beside their results, and what they borrow.

Sources, in aten/src/ATen/native: transformers/cuda/attention.cu and attention_backward.cu, the
calls; transformers/cuda/mem_eff_attention/kernel_backward.h and kernels/cutlassB.h, the
memory-efficient kernel's workspace; transformers/cuda/flash_attn/flash_api.cpp; cudnn/MHA.cpp.

Not knowable: what a plan of cuDNN's borrows for itself. It is whatever the library's heuristics
return on the card. The buffers that its open front end adds around plans are in here, so that no
figure has to be invented and what is missing is one number a call, freed when the call returns.

Legend: B batch, H heads, S query length, L key length, K head size, V value's head size.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from petl_bench.cards import Card
from petl_bench.profilers.simulated.kernels.recipe import (
    Call,
    Free,
    Recipe,
    Step,
    ceil_div,
    round_up,
    tensors,
)
from petl_bench.units import KIB

aten = torch.ops.aten

_RNG_STATE = 2 * 8  # seed and offset, int64 each
_HALF, _FP32 = 2, 4  # bytes


# --- cuDNN ---------------------------------------------------------------------------------------


def _cudnn(call: Call) -> Iterator[Step]:
    """Seed and offset on the device, the result, log-sum-exp [B, H, S] in fp32 without padding."""
    out, logsumexp, _, _, _, _, seed, offset, _ = call.out
    yield seed
    yield offset
    yield out
    if call.args[4]:  # compute_log_sumexp
        yield logsumexp


def _cudnn_backward(call: Call) -> Iterator[Step]:
    """The query's gradient is summed in fp32, beside one fp32 sum a query (cudnn_frontend)."""
    yield from call.out
    B, H, S, K = call.args[1].shape
    yield B * H * S * K * _FP32 + B * H * S * _FP32


# --- flash ---------------------------------------------------------------------------------------


def _flash(call: Call) -> Iterator[Step]:
    """With few queries and no dropout, keys are split among blocks (set_params_splitkv)."""
    query, key = call.args[:2]
    dropout_p = call.arg(3, "dropout_p", 0.0)
    out, logsumexp, *_, rng_state, unused, _ = call.out
    yield out
    yield logsumexp
    if dropout_p > 0:
        yield _RNG_STATE
        yield unused
        yield rng_state
        return
    splits = _key_splits(call.card, query, key)
    if splits > 1:
        B, H, S, K = query.shape
        yield splits * B * H * S * _FP32
        yield splits * B * H * S * _rounded_head(K) * _FP32
    yield rng_state
    yield unused
    if splits > 1:
        yield Free(0)


def _key_splits(card: Card, query: torch.Tensor, key: torch.Tensor) -> int:
    """Parts among which keys are split so that blocks fill the card (num_splits_heuristic)."""
    B, H, S, K = query.shape
    block = 256 if K <= 64 else 128 if K <= 128 else 64  # noqa: PLR2004
    key_blocks = ceil_div(key.shape[-2], block)
    blocks = B * H * ceil_div(S, 64)
    places = 2 * card.multiprocessors
    if blocks >= 0.8 * places:
        return 1
    efficiency = {}
    for splits in range(1, min(128, places, key_blocks) + 1):
        if splits == 1 or ceil_div(key_blocks, splits) != ceil_div(key_blocks, splits - 1):
            waves = blocks * splits / places
            efficiency[splits] = waves / ceil_div(blocks * splits, places)
    best = max(efficiency.values())
    return min(splits for splits, value in efficiency.items() if value >= 0.85 * best)


def _flash_backward(call: Call) -> Iterator[Step]:
    """Sums over queries in fp32, and gradients of expanded heads (mha_bwd).

    Results and their gradients that are not laid out as [B, S, H, K] are copied first.
    """
    grad, query, key = call.args[:3]
    B, H, S, K = query.shape
    for tensor in (grad, call.args[4]):
        if not tensor.transpose(1, 2).is_contiguous():
            yield tensor.nbytes
    yield from call.out
    rounded_queries = round_up(S, 128)
    yield B * H * rounded_queries * _FP32
    yield B * rounded_queries * H * _rounded_head(K) * _FP32
    if key.shape[1] != H:
        expanded = B * key.shape[2] * H * K * key.element_size()
        yield from (expanded, expanded)


def _rounded_head(head: int) -> int:
    return round_up(head, 32 if head <= 128 else 64)  # noqa: PLR2004 - as the kernel's tiles


# --- memory-efficient ----------------------------------------------------------------------------


def _efficient(call: Call) -> Iterator[Step]:
    """Log-sum-exp in fp32, queries padded to 32; 16-bit results of wide heads are summed in fp32.

    _efficient_attention_forward; seed and offset stay on the host.
    """
    out, logsumexp = call.out[:2]
    yield out
    yield logsumexp
    head = max(call.args[0].shape[-1], out.shape[-1])
    if out.element_size() == _HALF and head > 128:  # noqa: PLR2004 - kMaxK in registers
        yield out.numel() * _FP32


class _Tile(NamedTuple):
    """One of the compiled backward kernels."""

    queries: int  # kBlockSizeI
    keys: int  # kBlockSizeJ
    max_head: int  # kMaxK


_ANY = 65_536


def _efficient_backward(call: Call) -> Iterator[Step]:
    """Delta = sum(grad * out), fp32 [B, H, S]; and the kernel's workspace.

    _efficient_attention_backward. 16-bit kernels compute delta themselves.
    """
    grad, query, key, value = call.args[:4]
    B, H, S, K = query.shape
    V = value.shape[-1]
    half = query.element_size() == _HALF
    yield from tensors(call.out)
    delta = B * H * S * _FP32
    if half:
        yield delta
    else:
        yield grad.numel() * _FP32  # the product
        yield delta  # its sum
        if S > 1 and H > 1:
            yield delta  # with heads before queries
            yield Free(-2)
            yield Free(-2)
        else:
            yield Free(-2)
    tile = _tile(call.card, half=half, head=max(K, V), drops=call.args[9] > 0)
    accumulators = 0
    if half and tile.max_head > tile.queries:  # gradients of keys and values leave the registers
        L = key.shape[-2]
        splits = max(1, min(_splits(B * H, L, tile), 200 // (B * H)))
        wide = round_up(K, tile.queries) + round_up(V, tile.queries)
        accumulators = splits * tile.keys * wide
    blocks = ceil_div(S, tile.queries) * ceil_div(K, tile.keys)
    buffer = 4 + tile.queries * tile.keys  # a lock, a counter, padding; sums
    yield B * H * round_up(accumulators + blocks * buffer, 4) * _FP32
    yield Free(-2)


def _splits(heads: int, keys: int, tile: _Tile) -> int:
    """Parts among which keys are split."""
    enough = heads >= 256 and keys <= 2 * tile.keys  # noqa: PLR2004
    return 1 if enough else ceil_div(keys, tile.keys)


def _tile(card: Card, *, half: bool, head: int, drops: bool) -> _Tile:
    """dispatch_cutlassB: the first that is wide enough and fits the card's shared memory."""
    if head <= 64:  # noqa: PLR2004
        return _Tile(64, 64, 32 if head <= 32 else 64)  # noqa: PLR2004
    roomy = card.shared_memory_bytes > 100 * KIB
    if not half:
        return _Tile(128 if roomy else 64, 64, 128 if head <= 128 else _ANY)  # noqa: PLR2004
    if head > 128:  # noqa: PLR2004
        return _Tile(128, 64, _ANY)
    if roomy:
        return _Tile(128, 128, 128)
    if card.compute_capability < (8, 0):
        return _Tile(128, 64, 128)
    narrow = head <= 96 and not drops  # noqa: PLR2004
    return _Tile(128, 64, 96) if narrow else _Tile(64, 64, 128)


RECIPES: dict[Any, Recipe] = {
    aten._scaled_dot_product_cudnn_attention.default: _cudnn,
    aten._scaled_dot_product_cudnn_attention_backward.default: _cudnn_backward,
    aten._scaled_dot_product_flash_attention.default: _flash,
    aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
    aten._scaled_dot_product_efficient_attention.default: _efficient,
    aten._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,
}
