"""Side blocks of the designs that the paper did not choose, beside the backbone's own kind.

Legend: B batch, T tokens of the stack, S tokens attended to, d side width, H heads, K = d / H.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from petl_bench.backbones.ports import Mask
from petl_bench.backbones.thin import reserved


class Attention(nn.Module):
    """Multi-head attention of one sequence to another, without positions, [B, T, d].

    Keys and values that a cache should keep go into its layer `slot`.
    """

    def __init__(self, width: int, heads: int, *, dropout: float, bias: bool, slot: int) -> None:
        super().__init__()
        self.heads, self.dropout, self.slot = heads, dropout, slot
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=bias) for _ in range(4))

    def forward(
        self,
        state_BTd: torch.Tensor,
        memory_BSd: torch.Tensor,
        mask: Mask,
        *,
        causal: bool = False,
        cache: Any = None,
    ) -> torch.Tensor:
        """`mask` is additive or boolean, broadcastable to [B, H, T, S]."""
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, x in ((self.q, state_BTd), (self.k, memory_BSd), (self.v, memory_BSd))
        )
        if cache is not None:
            k, v = reserved(cache, self.slot).update(k, v, self.slot)
        p = self.dropout if self.training else 0.0
        causal = causal and mask is None and q.shape[2] > 1  # one token may see all before it
        heads_BHTK = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=p, is_causal=causal)
        out_BTd: torch.Tensor = self.o(heads_BHTK.transpose(1, 2).flatten(2))
        return out_BTd


class Reader(nn.Module):
    """s + Attention(norm(s), memory): a side block reads something beside its own sequence.

    Of a rung, it is the supplement's "transformer block + cross attention" of Sung et al. 2022:
    4 d^2 + d more a layer give its 2.68 % of T5-base.
    """

    def __init__(self, width: int, heads: int, dropout: float, slot: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, dropout=dropout, bias=False, slot=slot)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        state_BTd: torch.Tensor,
        memory_BSd: torch.Tensor,
        mask: Mask,
        *,
        causal: bool = False,
        cache: Any = None,
    ) -> torch.Tensor:
        """[B, T, d] -> [B, T, d]."""
        read_BTd = self.attention(
            self.norm(state_BTd), memory_BSd, mask, causal=causal, cache=cache
        )
        summed: torch.Tensor = state_BTd + self.dropout(read_BTd)
        return summed


class BottleneckBlock(nn.Module):
    """s + W_up gelu(W_down norm(s) + b) + b: no token sees another of its sequence.

    A decoder's reads the side encoder first, or nothing would. Source: the supplement of Sung et
    al. 2022, "adapter block + gates"; how it was built, beyond 2.07 % of T5-base, is not
    published. Here its inner width is that of the native block's feed-forward.
    """

    def __init__(self, width: int, inner: int, dropout: float, reader: Reader | None) -> None:
        super().__init__()
        self.reader = reader
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, state_BTd: torch.Tensor, encoder_BSd: torch.Tensor | None, cross_mask: Mask
    ) -> torch.Tensor:
        """[B, T, d] -> [B, T, d]."""
        if self.reader is not None and encoder_BSd is not None:
            state_BTd = self.reader(state_BTd, encoder_BSd, cross_mask)
        up_BTd = self.up(F.gelu(self.down(self.norm(state_BTd)), approximate="tanh"))
        summed: torch.Tensor = state_BTd + self.dropout(up_BTd)
        return summed


class PlainBlock(nn.Module):
    """A BERT-like layer: attention and feed-forward of 4 d, norms after each sum.

    Source: Su 2022, kexue.fm/archives/9138 (code: LST-CLUE): 4 of them, d = 128, 4 heads,
    started as in DeepNet: truncated normals, those on the residual path divided by sqrt(layers).
    """

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout=dropout, bias=True, slot=-1)
        self.attention_norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.gain = layers**-0.5

    def initialise(self) -> None:
        """Truncated normals of std sqrt(1 / inputs); v, o and both feed-forwards times the gain."""
        small = {self.attention.v, self.attention.o, self.up, self.down}
        for linear in (self.attention.q, self.attention.k, *small):
            std = linear.in_features**-0.5 * (self.gain if linear in small else 1)
            nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(linear.bias)

    def forward(self, state_BTd: torch.Tensor, mask: Mask) -> torch.Tensor:
        """[B, T, d] -> [B, T, d]."""
        read_BTd = self.attention(state_BTd, state_BTd, mask)
        state_BTd = self.attention_norm(state_BTd + self.dropout(read_BTd))
        inner_BTd = self.down(F.gelu(self.up(state_BTd)))
        out_BTd: torch.Tensor = self.norm(state_BTd + self.dropout(inner_BTd))
        return out_BTd
