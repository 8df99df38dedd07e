"""BitFit: only bias terms train.

T5 has none, so the name has two meanings there. `biases` gives every projection, every sublayer
norm and the head a bias that starts at zero, as the LST authors' code does; `norms` trains the
scales of the norms, the only vectors T5 owns.
Source: Ben Zaken, Ravfogel & Goldberg 2022, arXiv:2106.10199, section 3.
"""

from typing import Literal

from pydantic import Field
from torch import nn

from petl_bench.backbones.ports import Dims, Ports, add_biases
from petl_bench.method import LayeredConfig, Method, freeze, leaves_a_layer


class BitFitConfig(LayeredConfig):
    """Which vectors train."""

    terms: Literal["biases", "norms"] = Field(
        "biases", description="biases: of projections, sublayer norms and head; norms: all scales"
    )


def attach(model: nn.Module, ports: Ports, config: BitFitConfig) -> nn.Module:
    """Freeze all but the chosen vectors."""
    freeze(model)
    ports = ports.above(config.freeze_lower)
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
    """Number of bias entries, or of norm scales (one a sublayer, one a stack)."""
    dims = dims.above(config.freeze_lower)
    if config.terms == "biases":
        return dims.bias_terms
    return sum(stack.norms for stack in dims.stacks.values()) * dims.hidden_size


METHOD = Method(
    name="bitfit",
    title="BitFit",
    source="Ben Zaken et al. 2022, arXiv:2106.10199, section 3",
    config=BitFitConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=leaves_a_layer,
)
