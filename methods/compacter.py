"""Compacter: adapters whose weights are sums of Kronecker products of small matrices.

y = x + W_up gelu(W_down x + b_down) + b_up,   W = sum_i A_i (x) (s_i t_i),   i = 1..n,
A_i: [n, n], one set for the whole model;  s_i: [out / n, r] and t_i: [r, in / n], its own in
every layer. `compacter` puts an adapter after every self-attention and every feed-forward,
`compacter++` only after the latter; the backbone's norms train too.
Source: Mahabadi, Henderson & Ruder 2021, arXiv:2106.04647, sections 3 and 4.2; what the paper
leaves open follows the authors' configurations: r = 1, the tanh form of gelu, biases, a Glorot
uniform s_i and t_i, A_i from N(0, 0.0001**2), none after cross-attention.

Legend: B batch, T tokens, D hidden size, m bottleneck, n products, r rank.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from petl_bench import branches
from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports, like_weight
from petl_bench.method import Method, MethodConfig, freeze, needs_ports

_AFTER = {
    "compacter": branches.SELF_ATTENTION_AND_FEED_FORWARD,
    "compacter++": branches.FEED_FORWARD,
}


class CompacterConfig(MethodConfig):
    """Where the adapters stand and of what their weights are made."""

    placement: Literal["compacter", "compacter++"] = Field(
        "compacter",
        description="compacter: after self-attention and feed-forward; compacter++: the latter",
    )
    reduction: int = Field(32, gt=0, description="bottleneck m = hidden size / reduction")
    phm_dim: int = Field(4, gt=0, description="n, Kronecker products a weight; m is at least n")
    rank: int = Field(1, gt=0, description="r, of the right factor of each product")
    norms: bool = Field(default=True, description="train all of the backbone's norms too")

    def width(self, hidden_size: int) -> int:
        """The bottleneck m."""
        return max(self.phm_dim, hidden_size // self.reduction)


class PhmLinear(nn.Module):
    """x W^T + b with W = sum_i A_i (x) (s_i t_i), built anew in every pass."""

    def __init__(
        self, in_size: int, out_size: int, rank: int, rule: nn.Parameter, like: torch.Tensor
    ) -> None:
        super().__init__()
        n = rule.shape[0]
        self.rule = rule  # [n, n, n], every A_i; the same parameter in all layers
        self.left = nn.Parameter(like.new_empty(n, out_size // n, rank))
        self.right = nn.Parameter(like.new_empty(n, rank, in_size // n))
        self.bias = nn.Parameter(like.new_zeros(out_size))
        for factor in (*self.left, *self.right):
            nn.init.xavier_uniform_(factor)

    def weight(self) -> torch.Tensor:
        """W, [out, in]."""
        n, rows, _ = self.left.shape
        columns = self.right.shape[2]
        small_nRC = self.left @ self.right  # every s_i t_i
        large_nnRC = torch.einsum("iab,irc->arbc", self.rule.to(small_nRC.dtype), small_nRC)
        return large_nnRC.reshape(n * rows, n * columns)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, in] -> [B, T, out]."""
        return F.linear(x, self.weight(), self.bias)


def attach(model: nn.Module, ports: Ports, config: CompacterConfig) -> nn.Module:
    """Freeze the backbone and hang an adapter on each chosen branch's last projection."""
    freeze(model, keep=ports.task_head)
    n, D, m = config.phm_dim, ports.dims.hidden_size, config.width(ports.dims.hidden_size)
    rule = nn.Parameter(ports.like.new_empty(n, n, n))
    nn.init.normal_(rule, std=1e-4)

    def bottleneck(output: nn.Linear) -> branches.Bottleneck:
        like = like_weight(output, ports.like)
        return branches.Bottleneck(
            PhmLinear(D, m, config.rank, rule, like), PhmLinear(m, D, config.rank, rule, like)
        )

    branches.hang(ports, _AFTER[config.placement], bottleneck)
    if config.norms:
        for norm in ports.norms:
            norm.requires_grad_(requires_grad=True)
    return model


def trainable_parameters(dims: Dims, config: CompacterConfig) -> int:
    """2 r (D + m) + m + D an adapter, n**3 in all, and D a vector of a norm.

    T5-base: 48 adapters of 2,376, 64 and 62 norms of 768 make 161,728: 0.073 % of 222,882,048,
    as in the paper's table 1; 24 adapters, 104,704 or 0.047 %, are Compacter++.
    """
    D, m = dims.hidden_size, config.width(dims.hidden_size)
    adapters = branches.count(dims, _AFTER[config.placement])
    others = config.phm_dim**3 + dims.task_head_parameters
    if config.norms:
        others += dims.norm_parameters
    return adapters * (2 * config.rank * (D + m) + m + D) + others


def unsupported(dims: Dims, config: CompacterConfig) -> str | None:
    """Unknown layers, or a width that does not fall into `phm_dim` equal parts."""
    for name, size in (
        ("hidden size", dims.hidden_size),
        ("bottleneck", config.width(dims.hidden_size)),
    ):
        if size % config.phm_dim:
            return f"phm_dim {config.phm_dim} does not divide the {name} of {size}"
    return needs_ports(dims, config)


METHOD = Method(
    name="compacter",
    title="Compacter",
    source="Mahabadi et al. 2021, arXiv:2106.04647, sections 3 and 4",
    config=CompacterConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=unsupported,
)
