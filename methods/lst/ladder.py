"""A whole ladder: the side networks of a backbone's stacks, and what reads them.

logits = head(W_out dropout(norm(s)) + b_out)      the backbone's head, frozen
A decoder's side blocks attend to the side encoder. Source: Sung et al. 2022, section 3.2.
Legend: B batch, T tokens, D hidden size, d side width.
"""

import copy

import torch
from torch import nn

from petl_bench.backbones.ports import Ports

from .blocks import PlainBlock
from .config import LstConfig
from .designs import Native
from .side import SideStack


class Ladder(nn.Module):
    """Everything that trains: side networks, the way back to the backbone's width, a task head."""

    def __init__(self, ports: Ports, config: LstConfig) -> None:
        super().__init__()
        dims = ports.dims
        D, d = dims.hidden_size, config.side_width(dims.hidden_size)
        self.config = config
        self.reads_tokens = ports.head_reads == "tokens"
        self.stacks = nn.ModuleDict(
            {stack.name: SideStack(stack, dims, config) for stack in ports.stacks}
        )
        reads_side = config.head == "side"
        self.exit = None if reads_side else nn.Linear(d, D, bias=config.biases)
        self.merge_gate = nn.Parameter(torch.zeros(())) if config.merge else None
        self.head: nn.Module | None = None
        self._last_part = len(parts_of(ports.task_head)) - 1
        if reads_side:
            self.head = nn.Linear(d, _num_labels(ports.task_head))
        elif ports.task_head is not None:
            if not all(parameter.is_floating_point() for parameter in ports.task_head.parameters()):
                raise ValueError(
                    "lst: the task head has few bits a weight, so it cannot train: name it in"
                    " llm_int8_skip_modules or modules_to_not_convert when loading the backbone"
                )
            # A copy, so that several ladders beside one backbone have a head each.
            self.head = copy.deepcopy(ports.task_head).requires_grad_(requires_grad=True)
        # The model's own, which every ladder beside it shares: it is saved with each.
        self.extra = None if ports.extra_input is None else ports.extra_input.embedding
        self._initialise(ports, given=(None if reads_side else self.head, self.extra))

    def stack(self, name: str) -> SideStack:
        """The side network of the stack called `name`."""
        side = self.stacks[name]
        assert isinstance(side, SideStack)
        return side

    def finished(self, side_BTd: torch.Tensor, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """What the backbone's head reads instead of its final states, [B, T, D]."""
        if self.exit is None:
            return hidden_BTD
        exit_BTD: torch.Tensor = self.exit(side_BTd)
        if self.merge_gate is None:
            return exit_BTD
        mu = torch.sigmoid(self.merge_gate / self.config.temperature)
        return mu * exit_BTD + (1 - mu) * hidden_BTD

    def scores(
        self, number: int, side_BTd: torch.Tensor, *read: torch.Tensor
    ) -> torch.Tensor | None:
        """What part `number` of the task head returns, the last one scores, [B, labels].

        Of a head that reads every token, [B, T, labels]. `read` is what the backbone's would have
        read; None lets that part speak itself.
        """
        assert self.head is not None
        if self.config.head == "side":
            state = side_BTd if self.reads_tokens else side_BTd[:, 0]
            return self.head(state) if number == self._last_part else None
        return parts_of(self.head)[number](*read)  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Drop what a pass that did not end has left."""
        for side in self.stacks.values():
            assert isinstance(side, SideStack)
            side.forget()

    def _initialise(self, ports: Ports, given: tuple[nn.Module | None, ...]) -> None:
        """N(0, 0.01^2) in every linear layer, as the authors' code, but in those of `given`.

        Blocks that norm each sum, or what they add, give states of size one, beside which what a
        rung of 0.01 says is lost: with those entry, rungs and exit start at N(0, 1 / inputs), and
        the blocks as in DeepNet (Wang et al. 2022, arXiv:2203.00555). Plain ones do so by their
        own rule.
        """
        left = {module for whole in given if whole is not None for module in whole.modules()}
        for module in self.modules():
            if isinstance(module, PlainBlock):
                module.initialise()
                left.update(module.modules())
        normed = _norms_sums(ports, self.config)
        gains = self._gains() if normed else {}
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in left:
                std = gains.get(module, 1.0) * module.in_features**-0.5 if normed else 0.01
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _gains(self) -> dict[nn.Module, float]:
        """1 / sqrt(layers) for what stands on a residual path: all of native blocks but q and k."""
        return {
            linear: len(side.kept) ** -0.5
            for side in map(self.stack, self.stacks)
            if isinstance(side.design, Native)
            for layer in side.kept
            for sublayer in side.design.thin.sublayers(layer)
            for role, linear in sublayer.projections.items()
            if role not in {"q", "k"}
        }


def _norms_sums(ports: Ports, config: LstConfig) -> bool:
    """Whether the side blocks' norms come after their branches, as in BERT's and BART's layers."""
    native = config.blocks in {"native", "cross-attention"}
    return config.blocks == "plain" or (native and any(s.norm_after for s in ports.sublayers))


def parts_of(head: nn.Module | None) -> list[nn.Module]:
    """The modules of a task head that the model calls, in order: one, or those of a list."""
    if head is None:
        return []
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def _num_labels(head: nn.Module | None) -> int:
    """Outputs of a classifier: those of its last linear layer."""
    if head is None:
        raise ValueError("lst: head=side is for classifiers; this backbone has a language head")
    *_, last = (m for m in head.modules() if isinstance(m, nn.Linear))
    return last.out_features
