"""Ports: the places where a method may meet a backbone it does not know.

A method asks for ports and dimensions, never for T5. Legend: B batch, T tokens, D hidden size,
V vocabulary, H heads, K head size, F feed-forward size.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import nn


class SublayerKind(StrEnum):
    """The residual branches of a transformer layer."""

    SELF_ATTENTION = "self_attention"
    CROSS_ATTENTION = "cross_attention"
    FEED_FORWARD = "feed_forward"


@dataclass(frozen=True, kw_only=True)
class StackDims:
    """Dimensions of one stack of layers."""

    layers: int
    sublayers: tuple[SublayerKind, ...]  # of every layer, in order
    relative_position_buckets: int = 0  # entries, a head, of the stack's own bias table

    @property
    def attentions(self) -> int:
        """Attention sublayers in the whole stack."""
        return self.layers * sum(kind is not SublayerKind.FEED_FORWARD for kind in self.sublayers)


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Dimensions of a backbone, for closed forms."""

    hidden_size: int  # D
    num_heads: int  # H
    head_size: int  # K; the inner width H * K need not equal D
    feed_forward_size: int  # F
    feed_forward_inputs: int  # matrices D -> F: 1, or 2 when gated
    vocabulary_size: int  # V
    dropout: float  # after embeddings and on residual branches
    stacks: dict[str, StackDims]  # "encoder", "decoder": in the order they run
    total_parameters: int  # all of the backbone, tied ones once

    @property
    def inner_size(self) -> int:
        """Width of the concatenated heads, H * K."""
        return self.num_heads * self.head_size

    @property
    def num_sublayers(self) -> int:
        """Residual branches in all stacks; each has one norm before it."""
        return sum(stack.layers * len(stack.sublayers) for stack in self.stacks.values())

    @property
    def attentions(self) -> int:
        """Attention sublayers in all stacks."""
        return sum(stack.attentions for stack in self.stacks.values())

    @property
    def bias_terms(self) -> int:
        """Entries of one bias for each projection, sublayer norm and head.

        T5-base with a vocabulary of 32,100: 12 * 8,448 + 12 * 12,288 + 32,100 = 280,932.
        """
        in_attention = 3 * self.inner_size + self.hidden_size  # q, k, v; o
        in_feed_forward = self.feed_forward_inputs * self.feed_forward_size + self.hidden_size
        return (
            self.attentions * in_attention
            + sum(stack.layers for stack in self.stacks.values()) * in_feed_forward
            + self.num_sublayers * self.hidden_size
            + self.vocabulary_size
        )


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """One residual branch: its last projection and the norm before it."""

    stack: str
    layer: int
    kind: SublayerKind
    norm: nn.Module
    projections: dict[str, nn.Linear]  # q, k, v, o; or wi..., wo
    output: nn.Linear  # the last one; its result meets dropout and the residual


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One stack of layers, and how to grow a thin ladder beside it."""

    name: str
    embedding: nn.Module  # called once a forward pass; returns [B, T, D]
    layers: Sequence[nn.Module]  # each called once a forward pass; returns [B, T, D] first
    cached: Sequence[nn.Linear]  # key and value projections whose results a cache would keep
    # A stack's worth of layers of the backbone's own kind, all widths divided by `reduction`,
    # for the kept layers; its first layer owns its relative positions.
    thin: Callable[[int, Sequence[int]], "ThinStack"]


class ThinStack(nn.Module):
    """Narrow layers of a backbone's own kind, run beside the backbone's. Families subclass it."""

    width: int  # D // reduction
    cached: Sequence[nn.Linear]  # as in Stack

    def start(self, encoder_states_BTd: torch.Tensor | None) -> None:
        """Begin a forward pass; a decoder's layers attend to `encoder_states_BTd`."""
        raise NotImplementedError

    def layer(
        self, index: int, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Run kept layer `index` on `state_BTd`.

        `args` and `kwargs` are what the backbone's layer of that index was called with; the
        masks are taken from them.
        """
        raise NotImplementedError

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """The stack's final norm and dropout; forgets the pass."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything of a built backbone that methods may touch."""

    dims: Dims
    sublayers: tuple[Sublayer, ...]
    norms: tuple[nn.Module, ...]  # every norm, final ones included
    position_tables: tuple[nn.Module, ...]  # relative position biases
    stacks: tuple[Stack, ...]  # in the order they run
    head: nn.Linear  # D -> V
    peft_task: str  # peft's TaskType of this kind of model
    run_stacks: Callable[[dict[str, torch.Tensor]], None]  # forward pass without the head
    logits: Callable[[torch.Tensor], torch.Tensor]  # [B, T, D] -> [B, T, V], the frozen head
    loss: Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]  # logits, batch -> scalar

    @property
    def biasable(self) -> list[nn.Module]:
        """What bias terms belong to: projections and norms of the sublayers, and the head."""
        inside = [m for s in self.sublayers for m in (*s.projections.values(), s.norm)]
        return [*inside, self.head]

    @property
    def projections(self) -> dict[str, list[nn.Linear]]:
        """All linear layers of the sublayers by role (q, k, v, o, wi, wo)."""
        roles: dict[str, list[nn.Linear]] = {}
        for sublayer in self.sublayers:
            for role, linear in sublayer.projections.items():
                roles.setdefault(role, []).append(linear)
        return roles


def add_biases(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Give each module that has none a bias of zeros, added to its output; return them all.

    A linear layer gets a fused one. A norm without bias gets it by a hook, so that its class
    stays the library's own.
    """
    biases = []
    for module in modules:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        if getattr(module, "bias", None) is None:
            bias = nn.Parameter(
                torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
            )
            module.register_parameter("bias", bias)
            if not isinstance(module, nn.Linear):
                module.register_forward_hook(_add_bias)
        assert isinstance(module.bias, nn.Parameter)
        biases.append(module.bias)
    return biases


def _add_bias(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    del args
    assert isinstance(module.bias, torch.Tensor)
    return output + module.bias
