"""Ports: the places where a method may meet a backbone it does not know.

A method asks for ports and dimensions, never for T5. Legend: B batch, T tokens, D hidden size.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from petl_bench.backbones.dims import Dims, SublayerKind


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """One residual branch: its last projection and its norm, before it or after the sum."""

    stack: str
    layer: int
    kind: SublayerKind
    norm: nn.Module
    norm_after: bool = False  # it takes the sum or the result, not what goes into the branch
    projections: dict[str, nn.Linear]  # q, k, v, o; or wi..., wo; one of Dims.fused by its name
    output: nn.Linear  # the last one; its result meets dropout and the residual


Mask = torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class ThinShape:
    """What a thin copy of a stack is to be."""

    reduction: int  # all widths are the backbone's divided by this; the number of heads stays
    kept: tuple[int, ...]  # the layers that get a thin one, ascending
    attention: str | None = None  # implementation by transformers' name; None for the backbone's
    recomputed: bool = False  # in backward, instead of kept


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One stack of layers, and how to grow a thin one beside it."""

    name: str
    module: nn.Module  # returns the stack's final states, [B, T, D], first
    # Called once a forward pass; returns [B, T, D]. None where no module does: it is what the
    # first layer is given.
    embedding: nn.Module | None
    embedding_dropout: float  # that the stack applies to the result of `embedding`
    final_norm: nn.Module | None
    outside: Sequence[nn.Module] = ()  # what has dropout of the stack's and is not in `module`
    layers: Sequence[nn.Module]  # each called once a forward pass; returns [B, T, D] (first)
    causal: bool  # a token sees only those before it
    # The additive or boolean masks that a layer was called with, given its arguments: of its
    # self-attention and of its cross-attention, each None if there is nothing to mask.
    masks: Callable[[tuple[Any, ...], dict[str, Any]], "tuple[Mask, Mask]"]
    cached: Sequence[nn.Linear]  # key and value projections whose results a cache would keep
    # Layers of the backbone's own kind for the kept ones; the first owns its relative positions.
    thin: Callable[[ThinShape], "ThinStack"]


class ThinStack(nn.Module):
    """Narrow layers of a backbone's own kind, run beside the backbone's. Families subclass it.

    When the backbone generates with a cache, thin layer i keeps its keys and values in the same
    cache, in the slot after the last layer's: so they are expanded, reordered and cropped along.
    """

    width: int  # D // reduction
    cached: Sequence[nn.Linear]  # as in Stack
    recomputed: bool  # as in ThinShape

    def start(self, encoder_states_BTd: torch.Tensor | None) -> None:
        """Begin a forward pass; a decoder's layers attend to `encoder_states_BTd`."""
        raise NotImplementedError

    def takes_extra(self, tokens: int) -> None:
        """In this pass the state ends in so many tokens of an ExtraInput; called after `start`."""
        raise NotImplementedError

    def layer(
        self, index: int, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Run kept layer `index` on `state_BTd`.

        `args` and `kwargs` are what the backbone's layer of that index was called with: masks,
        positions and the cache are taken from them.
        """
        raise NotImplementedError

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """The stack's final norm and dropout, if it has them; forgets the pass."""
        raise NotImplementedError

    @property
    def final_norm(self) -> nn.Module | None:
        """The norm after the last layer."""
        raise NotImplementedError

    @property
    def position_table(self) -> nn.Module | None:
        """The first kept layer's relative position biases."""
        raise NotImplementedError

    def sublayers(self, index: int) -> tuple[Sublayer, ...]:
        """The residual branches of thin layer `index`, in order."""
        raise NotImplementedError

    def run(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """`block(...)`, recomputed in backward if that was asked for."""
        return run(block, self.recomputed, *args, **kwargs)


Sight = Literal["whole", "detached", "none"]
"""How a backbone's layers see an extra input: so that it learns through them, without, not."""


@dataclass(frozen=True, kw_only=True)
class ExtraInput:
    """Tokens of another kind, such as an image's, that a stack sees after its text."""

    stack: str
    # Called once a forward pass, before the stack's own; returns [B, X, D] (X extra tokens).
    # New with the task, so it trains with every method.
    embedding: nn.Module
    norms: tuple[nn.Module, ...]  # of the embedding
    # Given the stack's module: what its layers see from the next pass on. With "none" the
    # embedding is called all the same, for a side network that sees what the backbone does not.
    show: Callable[[nn.Module, Sight], None]
    frozen: nn.Module | None = None  # what makes features of raw input; no method trains it


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything of a built backbone that methods may touch."""

    dims: Dims
    sublayers: tuple[Sublayer, ...]
    norms: tuple[nn.Module, ...]  # every norm of the stacks, final ones included
    position_tables: tuple[nn.Module, ...] = ()  # relative position biases
    stacks: tuple[Stack, ...]  # in the order they run
    language_head: nn.Linear | None  # D -> V
    task_head: nn.Module | None = None  # new with the task, trained by every method
    head_reads: Literal["pooled", "tokens"] = "pooled"  # one state a text, or that of every token
    loose: Mapping[str, list[nn.Module]] = field(default_factory=dict)  # without sublayers: by role
    embedding: nn.Module | None = None  # of tokens, where no stack has it
    peft_task: str  # peft's TaskType of this kind of model
    extra_input: ExtraInput | None = None

    @property
    def like(self) -> torch.Tensor:
        """A parameter that has the device and dtype of what a method adds: the embedding's."""
        embedding = self.embedding
        if embedding is None:
            embedding = self.stacks[0].embedding
        assert embedding is not None
        return next(embedding.parameters())

    @property
    def biasable(self) -> list[nn.Module]:
        """What bias terms belong to: projections and norms of the sublayers, a language head."""
        branches = [m for s in self.sublayers for m in (*s.projections.values(), s.norm)]
        # A norm may be two branches', and may have no vectors.
        inside = [m for m in dict.fromkeys(branches) if getattr(m, "weight", None) is not None]
        if self.loose:
            inside = [*(m for modules in self.loose.values() for m in modules), *self.norms]
        return [*inside, self.language_head] if self.language_head is not None else inside

    @property
    def projections(self) -> dict[str, list[nn.Module]]:
        """All linear layers of the sublayers by role (q, k, v, o, wi, wo, or a fused one)."""
        roles = {role: list(modules) for role, modules in self.loose.items()}
        for sublayer in self.sublayers:
            for role, linear in sublayer.projections.items():
                roles.setdefault(role, []).append(linear)
        return roles

    def below(self, lower: int) -> list[nn.Module]:
        """The lowest `lower` layers, and the final norm of each stack that has no other.

        Layers are counted through the stacks in the order they run, so that in T5-base 6 is the
        encoder's lower half, and 18 all but the decoder's upper half.
        """
        modules: list[nn.Module] = []
        for stack in self.stacks:
            found = stack.layers[:lower]
            lower -= len(found)
            modules += found
            if len(found) == len(stack.layers) and stack.final_norm is not None:
                modules.append(stack.final_norm)
        return modules

    def above(self, lower: int) -> "Ports":
        """The same ports, blind to all that is `below`."""
        gone = {inside for module in self.below(lower) for inside in module.modules()}
        return replace(
            self,
            sublayers=tuple(each for each in self.sublayers if each.norm not in gone),
            norms=tuple(norm for norm in self.norms if norm not in gone),
            position_tables=tuple(table for table in self.position_tables if table not in gone),
        )


def run(block: nn.Module, recomputed: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001
    """`block(...)`; of a `recomputed` one only its inputs are kept for backward."""
    if recomputed and block.training and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False, **kwargs)
    return block(*args, **kwargs)


def like_weight(module: nn.Module, otherwise: torch.Tensor) -> torch.Tensor:
    """What has the device and dtype that `module` computes in: its weight.

    One of few bits has not: `otherwise` then, such as `Ports.like`.
    """
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight if weight.is_floating_point() else otherwise


def add_biases(modules: Iterable[nn.Module], like: torch.Tensor) -> list[nn.Parameter]:
    """Give each module that has none a bias of zeros, added to its output; return them all.

    A bias has its weight's dtype, or that of `like` where the weight has few bits.

    A linear layer gets a fused one. A norm without bias gets it by a hook, so that its class
    stays the library's own.
    """
    biases = []
    for module in modules:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        if getattr(module, "bias", None) is None:
            # Weights of few bits are packed, so that their shape says nothing.
            size = module.out_features if isinstance(module, nn.Linear) else len(weight)
            bias = nn.Parameter(like_weight(module, like).new_zeros(size))
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
