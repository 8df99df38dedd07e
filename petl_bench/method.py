"""The plugin record: what a fine-tuning method tells the harness about itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import nn

from petl_bench.backbones.ports import Dims, Ports
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


def freeze(model: nn.Module, keep: nn.Module | None = None) -> None:
    """Stop every parameter of `model` from training but those of `keep`, such as a task head."""
    kept = set() if keep is None else set(keep.parameters())
    for parameter in model.parameters():
        parameter.requires_grad = parameter in kept
