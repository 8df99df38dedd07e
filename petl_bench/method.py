"""The plugin record: what a fine-tuning method tells the harness about itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.case import Backbone


class MethodConfig(BaseModel):
    """Base of every method's configuration: immutable; unknown fields, inf and nan refused.

    Every field has a default and a description; `petl-bench methods NAME` shows them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=MethodConfig)


def always_supported(dims: Dims, config: MethodConfig) -> str | None:  # noqa: ARG001
    """None: the method runs on every backbone."""
    return None


class LayeredConfig(MethodConfig):
    """Base of configurations whose method may leave the lowest layers as they are."""

    freeze_lower: int = Field(
        0,
        ge=0,
        description="leave the lowest N layers alone, counted through the stacks as they run",
    )


def leaves_a_layer(dims: Dims, config: LayeredConfig) -> str | None:
    """Why `freeze_lower` leaves nothing to train, or None."""
    layers = sum(stack.layers for stack in dims.stacks.values())
    if not config.freeze_lower or config.freeze_lower < layers:
        return None
    return f"freeze_lower={config.freeze_lower} leaves none of the {layers} layers"


def needs_ports(dims: Dims, config: MethodConfig) -> str | None:
    """For `unsupported`: a method that meets a backbone's layers one by one."""
    del config
    return None if dims.stacks else "it needs to know the layers of this architecture"


def checkpoint_layers(model: nn.Module) -> None:
    """Every layer of the backbone runs again in backward, as transformers do it.

    Without reentrance, as PyTorch recommends. transformers also let the embeddings' result require
    a gradient, which then is made for every layer, whichever train.

    Raises:
        ValueError: the model is not one of transformers' or peft's.
    """
    for name in ("activation_checkpointing", "gradient_checkpointing"):  # before 5.23, the latter
        enable: Any = getattr(model, f"{name}_enable", None)
        if enable is not None:
            enable(**{f"{name}_kwargs": {"use_reentrant": False}})
            return
    raise ValueError(f"checkpointing: is not for a {type(model).__name__}")


Initialise = Callable[[nn.Module, Iterable[Mapping[str, torch.Tensor]]], None]


def nothing_first(config: MethodConfig) -> Initialise | None:  # noqa: ARG001
    """None: what was attached is ready to train."""
    return None


def any_weights(config: MethodConfig, weights: Path) -> str | None:  # noqa: ARG001
    """None: whatever the backbone's folder holds will do."""
    return None


def as_it_is(backbone: Backbone, config: C) -> C:  # noqa: ARG001
    """`config`: nothing in it waits for the backbone."""
    return config


@dataclass(frozen=True, kw_only=True)
class Method(Generic[C]):
    """One fine-tuning method. It carries no memory figure: bytes come from running it.

    `attach` freezes and adds, and returns the module to train. It raises ValueError, naming the
    targets, if nothing matched; it never moves devices, casts the backbone, seeds or prints.
    """

    name: str  # file name and CLI name
    title: str  # in tables and plots
    source: str  # paper and section, with an arXiv id or DOI
    config: type[C]
    attach: Callable[[nn.Module, Ports, C], nn.Module]
    # The paper's closed form; None for what has none, such as another library's method.
    trainable_parameters: Callable[[Dims, C], int] | None = None
    # The configuration completed for a backbone. UsageError if the two do not go together.
    fit: Callable[[Backbone, C], C] = as_it_is
    unsupported: Callable[[Dims, C], str | None] = always_supported  # the reason, in one sentence
    # Of a folder of pretrained weights: why the method cannot start from it, or None.
    unsupported_weights: Callable[[C, Path], str | None] = any_weights
    # What runs before training, if anything: given the model and batches of one example each.
    initialisation: Callable[[C], Initialise | None] = nothing_first
    checkpoint: Callable[[nn.Module], None] = checkpoint_layers  # turns recomputation on
    learning_rate: float = 3e-4  # of `train`, at its highest; by default the LST paper's for most


def attach(method: Method[Any], model: nn.Module, ports: Ports, config: MethodConfig) -> nn.Module:
    """`method` attached, and beside it what trains or is frozen whatever the method is."""
    trainee = method.attach(model, ports, config)
    extra = ports.extra_input
    if extra is not None:
        extra.embedding.requires_grad_(requires_grad=True)
        if extra.frozen is not None:
            extra.frozen.requires_grad_(requires_grad=False)
    return trainee


def trainable_parameters(method: Method[Any], dims: Dims, config: MethodConfig) -> int | None:
    """What trains after `attach`: the method's closed form and an extra input's embedding."""
    if method.trainable_parameters is None:
        return None
    return method.trainable_parameters(dims, config) + dims.extra_input_parameters


def freeze(model: nn.Module, keep: nn.Module | None = None) -> None:
    """Stop every parameter of `model` from training but those of `keep`, such as a task head."""
    kept = set() if keep is None else set(keep.parameters())
    for parameter in model.parameters():
        parameter.requires_grad = parameter in kept
