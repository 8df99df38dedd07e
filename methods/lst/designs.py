"""Designs of a side network's blocks: how a side state and a rung become the next side state.

Legend: B batch, T tokens, d side width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Stack, ThinShape, run

from .blocks import BottleneckBlock, PlainBlock, Reader
from .config import LstConfig

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Kept = tuple[int, ...]


class Design(nn.Module):
    """The side blocks of one stack, by the index of the backbone layer that each stands beside."""

    reads_rungs = False  # whether a block takes its rung in by itself
    cached: Sequence[nn.Linear] = ()  # as in Stack

    def start(self, encoder_BSd: torch.Tensor | None) -> None:
        """Begin a pass; a decoder's blocks read the side encoder's final state."""
        raise NotImplementedError

    def takes_extra(self, tokens: int) -> None:
        """In this pass the state ends in so many tokens that are no text; called after `start`."""
        raise NotImplementedError

    def layer(
        self,
        index: int,
        state_BTd: torch.Tensor,
        rung_BTd: torch.Tensor | None,
        args: Args,
        kwargs: Kwargs,
    ) -> torch.Tensor:
        """Side block `index`; `args` and `kwargs` are the backbone layer's."""
        raise NotImplementedError

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """What follows the last block; forgets the pass."""
        raise NotImplementedError


class Native(Design):
    """The paper's: thin layers of the backbone's own kind."""

    def __init__(self, stack: Stack, dims: Dims, config: LstConfig, kept: Kept) -> None:
        del dims
        super().__init__()
        attention = None if config.attention == "backbone" else config.attention
        self.thin = stack.thin(
            ThinShape(
                reduction=config.reduction,
                kept=kept,
                attention=attention,
                recomputed=config.checkpoint,
            )
        )

    def start(self, encoder_BSd: torch.Tensor | None) -> None:
        """As Design's."""
        self.thin.start(encoder_BSd)

    def takes_extra(self, tokens: int) -> None:
        """As Design's."""
        self.thin.takes_extra(tokens)

    def layer(
        self,
        index: int,
        state_BTd: torch.Tensor,
        rung_BTd: torch.Tensor | None,
        args: Args,
        kwargs: Kwargs,
    ) -> torch.Tensor:
        """As Design's."""
        del rung_BTd
        return self.thin.layer(index, state_BTd, args, kwargs)

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """As Design's."""
        return self.thin.finish(state_BTd)


class RungReading(Native):
    """Thin layers that each read their rung by attention before they run."""

    reads_rungs = True

    def __init__(self, stack: Stack, dims: Dims, config: LstConfig, kept: Kept) -> None:
        super().__init__(stack, dims, config, kept)
        d, n = self.thin.width, dims.stacks[stack.name].layers
        self.readers = nn.ModuleDict(
            {
                str(index): Reader(d, dims.num_heads, dims.dropout, slot=n + len(kept) + position)
                for position, index in enumerate(kept)
            }
        )
        self._masks, self._causal = stack.masks, stack.causal

    def layer(
        self,
        index: int,
        state_BTd: torch.Tensor,
        rung_BTd: torch.Tensor | None,
        args: Args,
        kwargs: Kwargs,
    ) -> torch.Tensor:
        """As Design's."""
        mask, _ = self._masks(args, kwargs)
        cache = kwargs.get("past_key_values")
        cache = getattr(cache, "self_attention_cache", cache)
        read_BTd = run(
            self.readers[str(index)],
            self.thin.recomputed,
            state_BTd,
            rung_BTd,
            mask,
            causal=self._causal,
            cache=cache,
        )
        return super().layer(index, read_BTd, None, args, kwargs)


class Bottlenecks(Design):
    """Bottlenecks of the native blocks' inner width."""

    def __init__(self, stack: Stack, dims: Dims, config: LstConfig, kept: Kept) -> None:
        super().__init__()
        d, inner = (n // config.reduction for n in (dims.hidden_size, dims.feed_forward_size))
        p = dims.dropout
        reads = stack.causal and len(dims.stacks) > 1
        self.block = nn.ModuleDict(
            {
                str(index): BottleneckBlock(
                    d, inner, p, Reader(d, dims.num_heads, p, slot=-1) if reads else None
                )
                for index in kept
            }
        )
        self.norm, self.dropout = nn.RMSNorm(d, eps=1e-6), nn.Dropout(p)
        self.recomputed = config.checkpoint
        self._masks = stack.masks
        self._encoder_BSd: torch.Tensor | None = None

    def start(self, encoder_BSd: torch.Tensor | None) -> None:
        """As Design's."""
        self._encoder_BSd = encoder_BSd

    def layer(
        self,
        index: int,
        state_BTd: torch.Tensor,
        rung_BTd: torch.Tensor | None,
        args: Args,
        kwargs: Kwargs,
    ) -> torch.Tensor:
        """As Design's."""
        del rung_BTd
        _, cross_mask = self._masks(args, kwargs)
        block = self.block[str(index)]
        out_BTd: torch.Tensor = run(
            block, self.recomputed, state_BTd, self._encoder_BSd, cross_mask
        )
        return out_BTd

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """As Design's."""
        self._encoder_BSd = None
        normed: torch.Tensor = self.dropout(self.norm(state_BTd))
        return normed


class Plain(Design):
    """The blog's: BERT-like layers of a width and a number of heads of their own."""

    def __init__(self, stack: Stack, dims: Dims, config: LstConfig, kept: Kept) -> None:
        super().__init__()
        d = config.side_width(dims.hidden_size)
        self.block = nn.ModuleDict(
            {str(index): PlainBlock(d, config.heads, len(kept), dims.dropout) for index in kept}
        )
        self.recomputed = config.checkpoint
        self._masks = stack.masks

    def start(self, encoder_BSd: torch.Tensor | None) -> None:
        """As Design's; an encoder's blocks have nothing to read."""
        assert encoder_BSd is None

    def layer(
        self,
        index: int,
        state_BTd: torch.Tensor,
        rung_BTd: torch.Tensor | None,
        args: Args,
        kwargs: Kwargs,
    ) -> torch.Tensor:
        """As Design's."""
        del rung_BTd
        mask, _ = self._masks(args, kwargs)
        out_BTd: torch.Tensor = run(self.block[str(index)], self.recomputed, state_BTd, mask)
        return out_BTd

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """Each block ends in a norm: nothing follows the last."""
        return state_BTd


DESIGNS: dict[str, Callable[[Stack, Dims, LstConfig, Kept], Design]] = {
    "native": Native,
    "adapter": Bottlenecks,
    "cross-attention": RungReading,
    "plain": Plain,
}
