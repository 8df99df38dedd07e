"""Ladder Side-Tuning: a thin network beside a frozen backbone, fed by its layers.

s_0     = W_in dropout(embed(x)) + b_in
s       = mu_i s + (1 - mu_i) (W_i h_i + b_i),   mu_i = sigmoid(alpha_i / temperature),
s       = SideBlock_i(s)                          for each kept layer i, h_i its output
logits  = head(W_out dropout(norm(s)) + b_out)    the backbone's head, frozen

The backbone runs without autograd; each ladder reads a layer's output the moment it appears, so
nothing of the backbone outlives its use but what the ladder's own backward needs. A decoder's
side blocks attend to the side encoder.
Source: Sung, Cho & Bansal 2022, arXiv:2206.06522, section 3; details that the paper leaves open
follow the authors' code: the gate multiplies the side state, ladders have biases, gates exist for
dropped layers too, dropout stays on in the backbone. Left out: initialisation by pruning.

Legend: B batch, T tokens, D hidden size, d = D / reduction, V vocabulary, n layers, H heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn

from petl_bench.backbones.ports import Dims, Ports, Stack, SublayerKind
from petl_bench.method import Method, MethodConfig, freeze


class LstConfig(MethodConfig):
    """Shape of the ladder."""

    reduction: int = Field(8, gt=0, description="side widths are the backbone's divided by this")
    keep: str = Field(
        "paper",
        description="layers that get a side block: paper, all, or a list such as 1-3,5-7,9-11",
    )
    temperature: float = Field(0.1, gt=0, description="of the gates' sigmoid")
    backbone_dropout: bool = Field(default=True, description="leave dropout on in the backbone")

    @field_validator("keep")
    @classmethod
    def _parsable(cls, value: str) -> str:
        if value not in {"paper", "all"}:
            _parse_layers(value)
        return value


def kept_layers(dims: Dims, stack: str, config: LstConfig) -> tuple[int, ...]:
    """Indices of the layers of `stack` that get a side block, ascending.

    `paper` is what the published scripts drop: of up to 12 layers every fourth, starting with
    layer 0; of more every second; all but the last in T5-3B and beyond, told by their width.

    Raises:
        ValueError: a listed layer does not exist.
    """
    n = dims.stacks[stack].layers
    if config.keep == "all":
        return tuple(range(n))
    if config.keep == "paper":
        if dims.feed_forward_size >= 16_384:  # noqa: PLR2004 - T5-3B's
            return (n - 1,)
        if n > 12:  # noqa: PLR2004 - T5-base's
            return tuple(range(1, n, 2))
        return tuple(layer for layer in range(n) if layer % 4) or (n - 1,)
    layers = _parse_layers(config.keep)
    if layers[-1] >= n:
        raise ValueError(f"lst: keep names layer {layers[-1]}; the {stack} has 0 to {n - 1}")
    return layers


def _parse_layers(text: str) -> tuple[int, ...]:
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError("write paper, all, or layers such as 1-3,5-7,9-11")
        layers.update(range(int(first), int(last if dash else first) + 1))
    if not layers:
        raise ValueError("names no layer")
    return tuple(sorted(layers))


class Ladder(nn.Module):
    """The side network of one stack."""

    def __init__(self, stack: Stack, dims: Dims, config: LstConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.kept = kept_layers(dims, stack.name, config)
        self.side = stack.thin(config.reduction, self.kept)
        D, d = dims.hidden_size, self.side.width
        self.entry = nn.Linear(D, d)
        self.entry_dropout = nn.Dropout(dims.dropout)
        self.rungs = nn.ModuleDict({str(layer): nn.Linear(D, d) for layer in self.kept})
        # One gate a layer of the backbone, dropped ones included, as the published counts have.
        self.gates = nn.Parameter(torch.zeros(dims.stacks[stack.name].layers))
        self.state_BTd: torch.Tensor | None = None

    def enter(self, embedding_BTD: torch.Tensor) -> None:
        """s_0 from the backbone's embedding output, with a dropout of its own."""
        self.state_BTd = self.entry(self.entry_dropout(embedding_BTD))

    def climb(
        self, layer: int, hidden_BTD: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """One rung: blend in the backbone's output, then the side block."""
        mu = torch.sigmoid(self.gates[layer] / self.temperature)
        rung_BTd = self.rungs[str(layer)](hidden_BTD)
        assert self.state_BTd is not None
        self.state_BTd = mu * self.state_BTd + (1 - mu) * rung_BTd
        self.state_BTd = self.side.layer(layer, self.state_BTd, args, kwargs)

    def leave(self) -> torch.Tensor:
        """The stack's final side state, [B, T, d]; nothing of the pass is kept."""
        assert self.state_BTd is not None
        final_BTd = self.side.finish(self.state_BTd)
        self.state_BTd = None
        return final_BTd


class LadderSideModel(nn.Module):
    """A frozen backbone and its ladders; takes the backbone's batches, returns loss and logits."""

    def __init__(self, backbone: nn.Module, ports: Ports, config: LstConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone_dropout = config.backbone_dropout
        self.ladders = nn.ModuleDict(
            {stack.name: Ladder(stack, ports.dims, config) for stack in ports.stacks}
        )
        self.exit = nn.Linear(ports.dims.hidden_size // config.reduction, ports.dims.hidden_size)
        self._ports = ports

    def train(self, mode: bool = True) -> "LadderSideModel":  # noqa: FBT001, FBT002 - nn.Module's
        """As nn.Module's; the backbone follows only if its dropout is to stay on."""
        super().train(mode)
        self.backbone.train(mode and self.backbone_dropout)
        return self

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss, a scalar, and logits [B, T, V] for a batch with labels [B, T]."""
        with self._listening(), torch.no_grad():
            self._ports.run_stacks(batch)
        final_BTd = self._ladder(self._ports.stacks[-1]).leave()
        logits_BTV = self._ports.logits(self.exit(final_BTd))
        return {"loss": self._ports.loss(logits_BTV, batch), "logits": logits_BTV}

    def _ladder(self, stack: Stack) -> Ladder:
        ladder = self.ladders[stack.name]
        assert isinstance(ladder, Ladder)
        return ladder

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Hooks on the backbone that let each ladder climb while the stack runs."""
        handles = []
        before: Stack | None = None
        for stack in self._ports.stacks:
            ladder = self._ladder(stack)
            handles.append(
                stack.embedding.register_forward_hook(self._on_embedding(ladder, before))
            )
            handles.extend(
                stack.layers[layer].register_forward_hook(
                    _on_layer(ladder, layer), with_kwargs=True
                )
                for layer in ladder.kept
            )
            before = stack
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _on_embedding(self, ladder: Ladder, before: Stack | None) -> Any:
        def enter(module: nn.Module, args: tuple[Any, ...], embedding_BTD: torch.Tensor) -> None:
            del module, args
            with torch.enable_grad():
                # The stack before this one has run: its final side state is what a decoder's
                # side blocks attend to.
                encoder_BSd = self._ladder(before).leave() if before else None
                ladder.side.start(encoder_BSd)
                ladder.enter(embedding_BTD)

        return enter


def _on_layer(ladder: Ladder, layer: int) -> Any:
    def climb(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        del module
        with torch.enable_grad():
            ladder.climb(layer, output[0], args, kwargs)

    return climb


def attach(model: nn.Module, ports: Ports, config: LstConfig) -> nn.Module:
    """Freeze the backbone and put ladders beside its stacks."""
    freeze(model)
    ladders = LadderSideModel(model, ports, config)
    side = nn.ModuleList([ladders.ladders, ladders.exit])
    side.to(device=ports.head.weight.device, dtype=ports.head.weight.dtype)
    for module in side.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return ladders


def trainable_parameters(dims: Dims, config: LstConfig) -> int:
    """Entries, rungs, gates, side blocks, side norms and the exit.

    T5-base, reduction 8, 9 of 12 layers kept: 3,878,712.
    """
    D, H = dims.hidden_size, dims.num_heads
    d, inner, F = (
        D // config.reduction,
        H * (dims.head_size // config.reduction),
        dims.feed_forward_size // config.reduction,
    )
    total = d * D + D  # exit
    for name, stack in dims.stacks.items():
        kept = len(kept_layers(dims, name, config))
        block = sum(
            (1 + dims.feed_forward_inputs) * d * F + d
            if kind is SublayerKind.FEED_FORWARD
            else 4 * d * inner + d
            for kind in stack.sublayers
        )
        rungs_and_entry = (kept + 1) * (D * d + d)
        gates_and_norm = stack.layers + d
        total += kept * block + rungs_and_entry + gates_and_norm
        total += stack.relative_position_buckets * H
    return total


def unsupported(dims: Dims, config: LstConfig) -> str | None:
    """A width that the reduction leaves at zero, or a layer that does not exist."""
    smallest = min(dims.hidden_size, dims.head_size, dims.feed_forward_size)
    if smallest < config.reduction:
        return f"reduction {config.reduction} leaves nothing of a width of {smallest}"
    try:
        for stack in dims.stacks:
            kept_layers(dims, stack, config)
    except ValueError as error:
        return str(error)
    return None


METHOD = Method(
    name="lst",
    title="Ladder Side-Tuning",
    source="Sung et al. 2022, arXiv:2206.06522, section 3",
    config=LstConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=unsupported,
)
