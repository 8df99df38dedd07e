"""What LoRA and its relatives share: the update's options, and peft's layers that hold it.

y = W x + (alpha / r) B A x,  A: [r, d_in],  B: [d_out, r].
"""

from typing import Any, TypeVar

from pydantic import Field, field_validator
from torch import nn

from petl_bench.backbones import FAMILIES
from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.backbones.roles import ROLES
from petl_bench.case import Backbone
from petl_bench.method import MethodConfig
from petl_bench.peft_methods.attaching import get_peft_model

ALL_LINEAR = "all-linear"  # as peft calls them; what is outside of the layers is not among them


class LowRankConfig(MethodConfig):
    """peft's options that shape the update, by peft's names."""

    r: int = Field(32, gt=0, description="rank of the update")
    alpha: int = Field(32, gt=0, description="the update is scaled by alpha / r")
    targets: tuple[str, ...] = Field(
        ("q", "v"),
        description="projections: q, k, v, o, wi, wo, or as q_proj by the model's own names; "
        "all-linear for every one in its layers",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before A")

    @field_validator("targets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(","))
        return value


C = TypeVar("C", bound=LowRankConfig)


def fit(backbone: Backbone, config: C) -> C:
    """The targets by role. Where queries, keys and values are one projection, that one is."""
    dims = FAMILIES[backbone.family].dims(backbone.config)
    roles = (role for target in config.targets for role in _roles(target, dims))
    return config.model_copy(update={"targets": dims.nearest(tuple(dict.fromkeys(roles)))})


def _roles(target: str, dims: Dims) -> tuple[str, ...]:
    if target == ALL_LINEAR:
        return dims.roles
    return (target if target in dims.roles else ROLES.get(target, target),)


def with_updates(model: nn.Module, ports: Ports, config: LowRankConfig) -> Any:
    """Peft's model with an update beside every target projection.

    Raises:
        ValueError: a target that the backbone does not have.
    """
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    roles = ports.projections
    missing = [target for target in config.targets if target not in roles]
    if missing:
        raise ValueError(f"no projection {missing[0]!r}; here are: {', '.join(roles)}")
    names = {module: name for name, module in model.named_modules()}
    return get_peft_model(
        model,
        ports,
        peft.LoraConfig(
            task_type=ports.peft_task,
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=[names[linear] for role in config.targets for linear in roles[role]],
        ),
    )
