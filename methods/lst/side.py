"""The side network of one stack: entry, rungs, gates, blocks.

s_0 = W_in dropout(embed(x)) + b_in
s   = mu_i s + (1 - mu_i) (W_i h_i + b_i),   mu_i = sigmoid(alpha_i / temperature),
s   = SideBlock_i(s)                          for each kept layer i, h_i its output

Source: Sung et al. 2022, section 3.2; details that the paper leaves open follow the authors' code:
the gate multiplies the side state, rungs have biases, gates exist for dropped layers too.
Legend: B batch, T tokens, D hidden size, d side width.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Stack

from .config import LstConfig, kept_layers
from .designs import DESIGNS
from .rungs import Rung

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class SideStack(nn.Module):
    """A thin network beside one stack of the backbone."""

    def __init__(self, stack: Stack, dims: Dims, config: LstConfig) -> None:
        super().__init__()
        D, d = dims.hidden_size, config.side_width(dims.hidden_size)
        self.kept = kept_layers(dims, stack.name, config)
        self.entry = nn.Linear(D, d, bias=config.biases)
        self.entry_dropout = nn.Dropout(stack.embedding_dropout)
        self.design = DESIGNS[config.blocks](stack, dims, config, self.kept)
        self.rungs = nn.ModuleDict(
            {
                str(layer): Rung(D, d, bias=config.biases, keep=config.rung_inputs)
                for layer in self.kept
                if config.climbs
            }
        )
        # One gate a layer of the backbone, dropped ones included, as the published counts have.
        layers = dims.stacks[stack.name].layers if config.gates == "learned" else 0
        self.gates = nn.Parameter(torch.zeros(layers)) if layers else None
        self.temperature = config.temperature
        self.fuses_after = config.fuse == "after"
        self.state_BTd: torch.Tensor | None = None

    def enter(
        self,
        embedding_BTD: torch.Tensor,
        encoder_BSd: torch.Tensor | None,
        extra_BXD: torch.Tensor | None = None,
    ) -> None:
        """s_0 from the backbone's embedding output, with a dropout of its own.

        Extra tokens, such as an image's, follow the text.
        """
        self.design.start(encoder_BSd)
        if extra_BXD is not None:
            self.design.takes_extra(extra_BXD.shape[1])
            embedding_BTD = torch.cat([embedding_BTD, extra_BXD], dim=1)
        self.state_BTd = self.entry(self.entry_dropout(embedding_BTD))

    def climb(self, layer: int, hidden_BTD: torch.Tensor, args: Args, kwargs: Kwargs) -> None:
        """One step up: the backbone's output joins, and the side block runs."""
        s_BTd = self.state_BTd
        if s_BTd is None:
            raise ValueError("the side network starts from input_ids: inputs_embeds has none")
        rung_BTd = self.rungs[str(layer)](hidden_BTD) if self.rungs else None
        if rung_BTd is not None and (unseen := s_BTd.shape[1] - rung_BTd.shape[1]):
            # The backbone has nothing to say of tokens that it does not see.
            rung_BTd = F.pad(rung_BTd, (0, 0, 0, unseen))
        joins_state = rung_BTd is not None and not self.design.reads_rungs
        if joins_state and not self.fuses_after:
            s_BTd = self._fused(layer, s_BTd, rung_BTd)
        s_BTd = self.design.layer(layer, s_BTd, rung_BTd, args, kwargs)
        if joins_state and self.fuses_after:
            s_BTd = self._fused(layer, s_BTd, rung_BTd)
        self.state_BTd = s_BTd

    def leave(self) -> torch.Tensor:
        """The final side state, [B, T, d]; nothing of the pass is kept."""
        assert self.state_BTd is not None
        final_BTd = self.design.finish(self.state_BTd)
        self.forget()
        return final_BTd

    def forget(self) -> None:
        """Drop what a pass that did not end has left."""
        self.state_BTd = None
        self.design.start(None)

    def _fused(self, layer: int, s_BTd: torch.Tensor, rung_BTd: Any) -> torch.Tensor:
        if self.gates is None:
            summed: torch.Tensor = s_BTd + rung_BTd
            return summed
        mu = torch.sigmoid(self.gates[layer] / self.temperature)
        mixed: torch.Tensor = mu * s_BTd + (1 - mu) * rung_BTd
        return mixed
