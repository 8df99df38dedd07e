"""LoRA: frozen weights plus a trainable low-rank update.

y = W x + (alpha / r) B A x,  A: [r, d_in],  B: [d_out, r],  B starts at 0.
The layers are peft's. `biases=all` is the LST paper's "LoRA" row: it also adds and trains a bias
on every projection, sublayer norm and language head, and trains the relative position tables,
whose names contain "bias".
Source: Hu et al. 2021, arXiv:2106.09685, section 4.1. Left out: merging.
"""

from typing import Literal

from pydantic import Field
from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports, add_biases
from petl_bench.method import LayeredConfig, Method, leaves_a_layer
from petl_bench.peft_methods.low_rank import LowRankConfig, fit, with_updates


class LoraConfig(LowRankConfig, LayeredConfig):
    """The update, and what trains beside it."""

    biases: Literal["none", "all"] = Field("none", description="all: the LST paper's row")


def attach(model: nn.Module, ports: Ports, config: LoraConfig) -> nn.Module:
    """Peft's model with an update beside every target projection."""
    ports = ports.above(config.freeze_lower)
    biases: list[nn.Parameter] = []
    if config.biases == "all":
        biases += add_biases(ports.biasable, ports.like)
        biases += [p for table in ports.position_tables for p in table.parameters()]
    lora: nn.Module = with_updates(model, ports, config)
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
