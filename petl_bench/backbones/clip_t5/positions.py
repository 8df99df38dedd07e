"""Relative positions of text to text alone: to and from any other token the bias is 0.

For T5Blocks, of a backbone or of a thin stack. The first block of a stack makes the bias for all.
"""

from typing import Any

from torch.nn import functional as F


def position_text_alone(block: Any) -> None:
    """Let a stack's first block bias the text alone; `count_visual_tokens` says how much is not.

    The functions hold no module, so a copy of the block is a block of its own.
    """
    attention = block.layer[0]
    attention.visual_tokens = 0
    attention.register_forward_pre_hook(_with_bias, with_kwargs=True)


def count_visual_tokens(block: Any, tokens: int) -> None:
    """From its next pass on, the last `tokens` that `block` sees are no text."""
    block.layer[0].visual_tokens = tokens


def _with_bias(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    X = module.visual_tokens
    if not X:
        return None
    (hidden_BSD,) = args
    T = hidden_BSD.shape[1] - X
    text_1HTT = module.SelfAttention.compute_bias(T, T, device=hidden_BSD.device)
    return args, {**kwargs, "position_bias": F.pad(text_1HTT, (0, X, 0, X))}
