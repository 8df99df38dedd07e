"""BERT-of-Theseus: compress a backbone by replacing its modules with thinner ones as it runs.

y = r_i successor_i(x) + (1 - r_i) predecessor_i(x),   r_i ~ Bernoulli(p), one a module and step
A predecessor is `group` layers of the frozen backbone, a successor one layer that trains;
successors start as the backbone's first layers. Embeddings and head stay frozen. Gradients flow
through whatever predecessors stand behind a successor. In eval mode all are successors.
Source: Xu, Zhou, Ge, Wei & Zhou 2020, arXiv:2002.02925, section 3; initial values and what is
frozen follow the authors' code. Here every stack is compressed, an encoder-decoder's both; the
paper has an encoder alone. Left out: the schedule that raises p to 1, which is `draw=all`.

What a step needs depends on its draw, and any draw turns up in a long run, whatever p is. So the
default is not random but the draw with the most activations: the first module is a successor, all
behind it are frozen layers that hand gradients back. One step before it replaces all modules, so
that all have their optimizer state, as in a run that is under way. `all` has the most gradients
and the higher peak where weights outweigh activations, as with 8 short examples.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.errors import UsageError
from petl_bench.method import Method, MethodConfig, checkpoint_layers, freeze, needs_ports


class TheseusConfig(MethodConfig):
    """How far to compress, and which modules a step replaces."""

    group: int = Field(2, gt=1, description="layers of the backbone that one successor replaces")
    draw: Literal["first", "all", "random"] = Field(
        "first",
        description="replaced from the second step on: the first module, all, or each with rate",
    )
    rate: float = Field(0.5, gt=0, le=1, description="p, with draw=random")
    seed: int = Field(0, ge=0, description="of the draws, with draw=random")


@dataclass(frozen=True)
class CompressedStack:
    """A stack's layers in groups, what may replace each, and where the stack looks them up."""

    holder: nn.Module  # runs the layers in its list `name`
    name: str
    predecessors: nn.ModuleList
    successors: nn.ModuleList

    def set_layers(self, replaced: Iterator[bool]) -> None:
        """Let the stack run a successor for each True, its predecessors for each False."""
        group = len(self.predecessors) // len(self.successors)
        chosen = nn.ModuleList()
        for i, is_replaced in enumerate(islice(replaced, len(self.successors))):
            own = self.predecessors[i * group : (i + 1) * group]
            chosen.extend([self.successors[i]] if is_replaced else own)
        setattr(self.holder, self.name, chosen)

    def restore(self) -> None:
        """Let the stack run its own layers again."""
        setattr(self.holder, self.name, self.predecessors)


class TheseusModel(nn.Module):
    """A frozen backbone and its successors; takes the backbone's batches."""

    def __init__(
        self, backbone: nn.Module, stacks: Sequence[CompressedStack], config: TheseusConfig
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.successors = nn.ModuleList(stack.successors for stack in stacks)
        self._stacks = stacks
        self._modules_count = sum(len(stack.successors) for stack in stacks)
        self._config = config
        self._generator = torch.Generator("cpu").manual_seed(config.seed)
        self._steps = 0

    def forward(self, **batch: torch.Tensor) -> Any:
        """What the backbone returns, with its layers as drawn for this pass."""
        replaced = self.draw() if self.training else [True] * self._modules_count
        with self.replacing(replaced):
            return self.backbone(**batch)

    def generate(self, **inputs: Any) -> Any:
        """The backbone's `generate`, all modules replaced: what the method is for."""
        backbone: Any = self.backbone
        with self.replacing([True] * self._modules_count):
            return backbone.generate(**inputs)

    @property
    def generation_config(self) -> Any:
        """The backbone's."""
        backbone: Any = self.backbone
        return backbone.generation_config

    def checkpoint(self) -> None:
        """Let predecessors and successors run again in backward."""
        for replaced in (True, False):  # a backbone reaches the layers that it holds
            with self.replacing([replaced] * self._modules_count):
                checkpoint_layers(self.backbone)

    def draw(self) -> list[bool]:
        """Whether each module, in the order they run, is replaced in the next training step."""
        n = self._modules_count
        self._steps += 1
        if self._steps == 1 or self._config.draw == "all":
            return [True] * n
        if self._config.draw == "first":
            return [True] + [False] * (n - 1)
        while True:
            # On the host: tensors on the meta device cannot say what was drawn.
            chances = torch.rand(n, generator=self._generator, device="cpu")
            drawn: list[bool] = (chances < self._config.rate).tolist()
            if any(drawn):  # where nothing is replaced nothing trains
                return drawn

    @contextmanager
    def replacing(self, replaced: list[bool]) -> Iterator[None]:
        """Inside, the backbone runs successors and predecessors as said, a flag a module."""
        draws = iter(replaced)
        try:
            for stack in self._stacks:
                stack.set_layers(draws)
            yield
        finally:
            for stack in self._stacks:
                stack.restore()


def _compressed(model: nn.Module, layers: Sequence[nn.Module], group: int) -> CompressedStack:
    """The stack that runs `layers`, with copies of its first ones as successors."""
    for holder in model.modules():
        for name, child in holder.named_children():
            if isinstance(child, nn.ModuleList) and list(child) == list(layers):
                first = child[: len(child) // group]
                successors = nn.ModuleList(copy.deepcopy(layer) for layer in first)
                return CompressedStack(holder, name, child, successors)
    raise ValueError("theseus: the layers of a stack are in no list that could be replaced")


def attach(model: nn.Module, ports: Ports, config: TheseusConfig) -> nn.Module:
    """Freeze the backbone and copy its first layers as successors.

    Raises:
        UsageError: the layers have few bits a weight, so that no copy of them trains.
    """
    weights = (parameter for layer in ports.stacks[0].layers for parameter in layer.parameters())
    if not all(weight.is_floating_point() for weight in weights):
        raise UsageError("successors are copies of layers, and weights of few bits do not train")
    freeze(model, keep=ports.task_head)
    stacks = [_compressed(model, stack.layers, config.group) for stack in ports.stacks]
    for stack in stacks:
        stack.successors.requires_grad_(requires_grad=True)
    return TheseusModel(model, stacks, config)


def checkpoint(model: nn.Module) -> None:
    """Layers of both kinds run again in backward."""
    assert isinstance(model, TheseusModel)
    model.checkpoint()


def trainable_parameters(dims: Dims, config: TheseusConfig) -> int:
    """One in `group` layers of each stack, the first one's relative positions, the task head.

    T5-base: 6 * 7,079,424 + 6 * 9,439,488 + 2 * 384 = 99,114,240.
    """
    total = dims.task_head_parameters
    for name, stack in dims.stacks.items():
        total += stack.layers // config.group * dims.layer_parameters(name)
        total += stack.relative_position_buckets * dims.num_heads
    return total


def unsupported(dims: Dims, config: TheseusConfig) -> str | None:
    """Unknown layers, or a stack that does not fall into groups."""
    for name, stack in dims.stacks.items():
        if stack.layers % config.group:
            return f"group {config.group} does not divide the {stack.layers} layers of the {name}"
    return needs_ports(dims, config)


METHOD = Method(
    name="theseus",
    title="BERT-of-Theseus",
    source="Xu et al. 2020, arXiv:2002.02925, section 3",
    config=TheseusConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=unsupported,
    checkpoint=checkpoint,
)
