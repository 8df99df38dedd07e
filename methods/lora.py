"""LoRA: frozen weights plus a trainable low-rank update.

y = W x + (alpha / r) B A x,  A: [r, d_in],  B: [d_out, r],  B starts at 0.
The layers are peft's. `biases=all` is the LST paper's "LoRA" row: it also adds and trains a bias
on every projection, sublayer norm and language head, and trains the relative position tables,
whose names contain "bias".
Source: Hu et al. 2021, arXiv:2106.09685, section 4.1. Left out: merging.
"""

from typing import Literal

from pydantic import Field, field_validator
from torch import nn

from petl_bench.backbones import FAMILIES
from petl_bench.backbones.ports import Dims, Ports, add_biases
from petl_bench.case import Backbone
from petl_bench.method import LayeredConfig, Method, leaves_a_layer
from petl_bench.peft_methods.attaching import get_peft_model


class LoraConfig(LayeredConfig):
    """peft's options that shape the update, by peft's names."""

    r: int = Field(32, gt=0, description="rank of the update")
    alpha: int = Field(32, gt=0, description="the update is scaled by alpha / r")
    targets: tuple[str, ...] = Field(("q", "v"), description="projections: q, k, v, o, wi, wo")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before A")
    biases: Literal["none", "all"] = Field("none", description="all: the LST paper's row")

    @field_validator("targets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(","))
        return value


def fit(backbone: Backbone, config: LoraConfig) -> LoraConfig:
    """Where queries, keys and values are one projection, that one is the target."""
    dims = FAMILIES[backbone.family].dims(backbone.config)
    return config.model_copy(update={"targets": dims.nearest(config.targets)})


def attach(model: nn.Module, ports: Ports, config: LoraConfig) -> nn.Module:
    """Peft's model with an update beside every target projection."""
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    ports = ports.above(config.freeze_lower)
    roles = ports.projections
    missing = [target for target in config.targets if target not in roles]
    if missing:
        raise ValueError(f"lora: no projection {missing[0]!r}; here are: {', '.join(roles)}")
    names = {module: name for name, module in model.named_modules()}
    biases: list[nn.Parameter] = []
    if config.biases == "all":
        biases += add_biases(ports.biasable, ports.like)
        biases += [p for table in ports.position_tables for p in table.parameters()]
    lora = get_peft_model(
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
    for parameter in biases:
        parameter.requires_grad = True
    return lora


def trainable_parameters(dims: Dims, config: LoraConfig) -> int:
    """R (d_in + d_out) a target; with `biases=all` every bias and position table; the task head.

    T5-base, r = 32 on q and v: 36 attentions * 2 * 32 * 1,536 = 3,538,944.
    """
    dims = dims.above(config.freeze_lower)
    shapes = (shape for target in config.targets for shape in dims.shapes(target))
    total = config.r * sum(map(sum, shapes)) + dims.task_head_parameters
    if config.biases == "all":
        tables = sum(s.relative_position_buckets for s in dims.stacks.values()) * dims.num_heads
        total += dims.bias_terms + tables
    return total


def unsupported(dims: Dims, config: LoraConfig) -> str | None:
    """A target that the backbone does not have, or no layer left."""
    return dims.lacks(config.targets) or leaves_a_layer(dims, config)


METHOD = Method(
    name="lora",
    title="LoRA",
    source="Hu et al. 2021, arXiv:2106.09685, section 4.1",
    config=LoraConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=unsupported,
    fit=fit,
)
