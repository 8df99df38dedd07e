"""Rungs: linear layers from the backbone's width to the side network's.

A rung's weight needs the backbone's output again in backward: W' = g^T h. That is what a ladder
keeps of the backbone, [B, T, D] a rung, and it may be kept coarser than it was computed.
Legend: B batch, T tokens, D hidden size, d side width.
"""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

Keep = Literal["full", "bf16", "int8"]


class Rung(nn.Linear):
    """W h + b, [B, T, D] -> [B, T, d], that keeps h for backward as `keep` says.

    `bf16` halves what fp32 backbones leave behind; `int8` keeps a byte an element and one scale
    a token (absmax / 127), which bounds the error of each kept element by 0.4 % of its token's
    largest. The result itself is always computed from h as it came.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, keep: Keep = "full"
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.keep: Keep = keep

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, d]."""
        if self.keep == "full" or not torch.is_grad_enabled():
            return F.linear(hidden_BTD, self.weight, self.bias)
        rung_BTd: torch.Tensor = _CoarselyKept.apply(  # type: ignore[no-untyped-call]
            hidden_BTD, self.weight, self.bias, self.keep
        )
        return rung_BTd

    def extra_repr(self) -> str:
        """As nn.Linear's, with what is kept."""
        return f"{super().extra_repr()}, keep={self.keep}"


class _CoarselyKept(torch.autograd.Function):
    """F.linear whose saved input is smaller than its input."""

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, keep: Keep
    ) -> torch.Tensor:
        kept: tuple[torch.Tensor, ...]
        if keep == "bf16":
            kept = (h.to(torch.bfloat16),)
        else:
            scale_BT1 = h.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
            kept = ((h / scale_BT1).round_().to(torch.int8), scale_BT1)
        ctx.save_for_backward(weight, *kept)
        ctx.has_bias = bias is not None
        return F.linear(h, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (g_BTd,) = grads
        weight, kept, *scales = ctx.saved_tensors
        grad_h = g_BTd @ weight if ctx.needs_input_grad[0] else None
        h_BTD = kept.to(g_BTd.dtype)
        if scales:
            h_BTD *= scales[0]
        g_Nd = g_BTd.flatten(0, -2)
        grad_bias = g_Nd.sum(0) if ctx.has_bias else None
        return grad_h, g_Nd.T @ h_BTD.flatten(0, -2), grad_bias, None
