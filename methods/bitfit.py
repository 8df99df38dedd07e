"""BitFit: only bias terms train.

`biases` are those of every projection, every sublayer norm and a language head. T5 has none, so
there, and wherever one is missing, it gets one that starts at zero, as in the LST authors' code;
`norms` trains the vectors of the norms instead, the only ones T5 owns.
Source: Ben Zaken, Ravfogel & Goldberg 2022, arXiv:2106.10199, section 3.
"""

from typing import Literal

from pydantic import Field
from torch import nn

from petl_bench.backbones.ports import Dims, Ports, add_biases
from petl_bench.method import Method, MethodConfig, freeze


class BitFitConfig(MethodConfig):
    """Which vectors train."""

    terms: Literal["biases", "norms"] = Field(
        "biases", description="biases: of projections, sublayer norms and head; norms: all of them"
    )


def attach(model: nn.Module, ports: Ports, config: BitFitConfig) -> nn.Module:
    """Freeze all but the chosen vectors."""
    freeze(model, keep=ports.task_head)
    if config.terms == "norms":
        trained = [parameter for norm in ports.norms for parameter in norm.parameters()]
    else:
        trained = add_biases(ports.biasable)
    if not trained:
        raise ValueError(f"bitfit: no {config.terms} in this backbone")
    for parameter in trained:
        parameter.requires_grad = True
    return model


def trainable_parameters(dims: Dims, config: BitFitConfig) -> int:
    """Number of bias entries, or of norm entries; and the task head."""
    terms = dims.bias_terms if config.terms == "biases" else dims.norm_parameters
    return terms + dims.task_head_parameters


METHOD = Method(
    name="bitfit",
    title="BitFit",
    source="Ben Zaken et al. 2022, arXiv:2106.10199, section 3",
    config=BitFitConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
)
