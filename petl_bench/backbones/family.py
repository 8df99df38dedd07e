"""What a family of backbones offers the harness."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.case import Backbone, ConfigValue, Workload


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture: dimensions by name, and how to build it and open its ports."""

    name: str  # transformers' model_type where it has one
    architectures: tuple[str, ...]  # model classes whose ports these are
    published: Mapping[str, Mapping[str, ConfigValue]]
    normalise: Callable[[Mapping[str, Any]], dict[str, ConfigValue]]  # keep what shapes it
    dims: Callable[[Mapping[str, Any]], Dims]  # of a normalised configuration
    build: Callable[[Backbone], nn.Module]  # random weights, on torch's current default device
    ports: Callable[[nn.Module], Ports]  # of any such model, however it was made
    # A training batch of the workload's shape. Its last example is one token short, since no
    # real batch is free of padding and a batch without any lets transformers skip the mask.
    batch: Callable[[Backbone, Workload, torch.device], dict[str, torch.Tensor]]
    own_class: Callable[[], Any] | None = None  # the models', where transformers have none
    targets: bool = True  # an example has target tokens beside its source
    chooses: bool = False  # an example is several texts, of which one is right
    # Most images of an example, of a normalised configuration; 0 where it has none.
    most_images: Callable[[Mapping[str, Any]], int] = lambda config: 0  # noqa: ARG005
    # Most tokens of a sequence, of a normalised configuration; None where there is no limit.
    longest: Callable[[Mapping[str, Any]], int | None] = lambda config: None  # noqa: ARG005
