"""Relative positions of text to text alone: to and from any other token the bias is 0.

Legend: T text tokens, X visual tokens after them, S = T + X, H heads.
"""

from typing import Any

import torch
from torch.nn import functional as F


def text_bias(attention: Any, length: int, visual_tokens: int) -> torch.Tensor:
    """The bias of a T5Attention that owns a table, [1, H, S, S], for `length` = S tokens."""
    T = length - visual_tokens
    text_1HTT = attention.compute_bias(T, T, device=attention.q.weight.device)
    return F.pad(text_1HTT, (0, visual_tokens, 0, visual_tokens))


def position_text_alone(block: Any) -> None:
    """Let a stack's first block make such a bias, with as many as `count_visual_tokens` says.

    The functions hold no module, so a copy of the block is a block of its own.
    """
    count_visual_tokens(block, 0)
    block.layer[0].register_forward_pre_hook(_with_bias, with_kwargs=True)


def count_visual_tokens(block: Any, tokens: int) -> None:
    """From its next pass on, the last `tokens` that `block` sees are no text."""
    block.layer[0].visual_tokens = tokens


def _with_bias(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if not module.visual_tokens:
        return None
    bias = text_bias(module.SelfAttention, args[0].shape[1], module.visual_tokens)
    return args, {**kwargs, "position_bias": bias}
