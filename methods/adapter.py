"""Adapters: a small bottleneck network inside each residual branch.

y = x + W_up gelu(W_down x + b_down) + b_up,  W_down: [m, D],  W_up: [D, m],
applied to a branch's output before dropout and residual.
`houlsby` puts one after every self-attention and every feed-forward (Houlsby et al. 2019,
arXiv:1902.00751, section 2.1, figure 2); `pfeiffer` one after every feed-forward (Pfeiffer et al.
2021, arXiv:2005.00247, section 3.2). Neither follows a decoder's cross-attention, as in the LST
authors' code for text; `all` does, as in theirs for images. That code also starts the linear layers
at N(0, 0.01**2), which Houlsby calls near-identity.

Legend: B batch, T tokens, D hidden size, m bottleneck.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from petl_bench import branches
from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports, like_weight
from petl_bench.method import LayeredConfig, Method, freeze, leaves_a_layer, needs_ports

_AFTER = {
    "houlsby": branches.SELF_ATTENTION_AND_FEED_FORWARD,
    "pfeiffer": branches.FEED_FORWARD,
    "all": branches.ALL,
}


class AdapterConfig(LayeredConfig):
    """Where the bottlenecks stand and how wide they are."""

    placement: Literal["houlsby", "pfeiffer", "all"] = Field(
        "houlsby",
        description="houlsby: after self-attention and feed-forward; pfeiffer: the latter; "
        "all: after cross-attention, too",
    )
    reduction: int = Field(16, gt=0, description="bottleneck m = hidden size / reduction")
    bottleneck: int | None = Field(None, gt=0, description="m itself; overrides reduction")
    norms: bool = Field(default=True, description="train all of the backbone's norms too")

    def width(self, hidden_size: int) -> int:
        """The bottleneck m."""
        return self.bottleneck or max(1, hidden_size // self.reduction)


def _bottleneck(hidden_size: int, width: int, like: torch.Tensor) -> branches.Bottleneck:
    down = nn.Linear(hidden_size, width, dtype=like.dtype, device=like.device)
    up = nn.Linear(width, hidden_size, dtype=like.dtype, device=like.device)
    for linear in (down, up):
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
    return branches.Bottleneck(down, up)


def attach(model: nn.Module, ports: Ports, config: AdapterConfig) -> nn.Module:
    """Freeze the backbone and hang a bottleneck on each chosen branch's last projection."""
    freeze(model, keep=ports.task_head)
    ports = ports.above(config.freeze_lower)
    D = ports.dims.hidden_size
    branches.hang(
        ports,
        _AFTER[config.placement],
        lambda output: _bottleneck(D, config.width(D), like_weight(output, ports.like)),
    )
    if config.norms:
        for norm in ports.norms:
            norm.requires_grad_(requires_grad=True)
    return model


def trainable_parameters(dims: Dims, config: AdapterConfig) -> int:
    """2 D m + m + D a bottleneck, and D a vector of a norm.

    T5-base, m = 48: 48 bottlenecks of 74,544 and 62 norms of 768 make 3,625,728.
    """
    dims = dims.above(config.freeze_lower)
    D, m = dims.hidden_size, config.width(dims.hidden_size)
    bottlenecks = branches.count(dims, _AFTER[config.placement])
    norms = dims.norm_parameters if config.norms else 0
    return bottlenecks * (2 * D * m + m + D) + norms + dims.task_head_parameters


METHOD = Method(
    name="adapter",
    title="Adapter",
    source="Houlsby et al. 2019, arXiv:1902.00751, section 2.1",
    config=AdapterConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=lambda dims, config: needs_ports(dims, config) or leaves_a_layer(dims, config),
)
