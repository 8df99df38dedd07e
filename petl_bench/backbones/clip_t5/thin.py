"""A thin T5 stack whose state may end in visual tokens, seen by the backbone or not.

Legend: B batch, T text tokens, X visual tokens, S = T + X, d thin hidden size.
"""

from typing import Any

import torch
from torch.nn import functional as F

from petl_bench.backbones.clip_t5.positions import text_bias
from petl_bench.backbones.ports import Mask, ThinShape
from petl_bench.backbones.t5 import ThinT5Stack


class ThinClipT5Stack(ThinT5Stack):
    """ThinT5Stack, on [B, T + X, d]."""

    def __init__(self, config: Any, shape: ThinShape) -> None:
        super().__init__(config, shape)
        self._first = shape.kept[0]
        self._visual_tokens = 0

    def start(self, encoder_states_BTd: torch.Tensor | None) -> None:
        """Begin a pass of text alone, unless `takes_extra` follows."""
        super().start(encoder_states_BTd)
        self._visual_tokens = 0

    def takes_extra(self, tokens: int) -> None:
        """The state of this pass ends in so many visual tokens."""
        self._visual_tokens = tokens

    def layer(
        self, index: int, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """As ThinT5Stack's; the first one's bias is the text's alone."""
        if index == self._first and self._visual_tokens:
            first: Any = self.block[str(index)]
            attention = first.layer[0].SelfAttention
            self.position_bias = text_bias(attention, state_BTd.shape[1], self._visual_tokens)
        return super().layer(index, state_BTd, args, kwargs)

    def masks(
        self, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Mask, Mask]:
        """The backbone block's, widened to what it does not see and this one does."""
        mask, encoder_mask = super().masks(state_BTd, args, kwargs)
        unseen = state_BTd.shape[1] - args[0].shape[1]
        if mask is not None and unseen:
            mask = _widened(mask[:, :, :1], unseen)  # any token of an encoder sees the same
        if encoder_mask is not None and self.encoder_states_BSd is not None:
            unseen = self.encoder_states_BSd.shape[1] - encoder_mask.shape[-1]
            encoder_mask = _widened(encoder_mask, unseen)
        return mask, encoder_mask


def _widened(mask_11TS: torch.Tensor, keys: int) -> torch.Tensor:
    """An additive or boolean mask of so many more keys, which all may see."""
    return F.pad(mask_11TS, (0, keys), value=mask_11TS.dtype is torch.bool)
