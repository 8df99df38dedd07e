"""BitFit: only bias terms train.

T5 has none, so the name has several meanings there. `biases` gives every projection, every sublayer
norm and the head a bias that starts at zero, as the LST authors' code for text does; `all-biases`
the stacks' final norms and the norms of an image's embedding, too, as theirs for images; `norms`
trains the scales of the norms, the only vectors T5 owns.
Source: Ben Zaken, Ravfogel & Goldberg 2022, arXiv:2106.10199, section 3.
"""

from typing import Literal

from pydantic import Field
from torch import nn

from petl_bench.backbones.ports import Dims, Ports, add_biases
from petl_bench.method import Method, MethodConfig, freeze


class BitFitConfig(MethodConfig):
    """Which vectors train."""

    terms: Literal["biases", "all-biases", "norms"] = Field(
        "biases",
        description="biases: of projections, sublayer norms and head; all-biases: of other norms, "
        "too; norms: all scales",
    )


def attach(model: nn.Module, ports: Ports, config: BitFitConfig) -> nn.Module:
    """Freeze all but the chosen vectors."""
    freeze(model)
    if config.terms == "norms":
        trained = [parameter for norm in ports.norms for parameter in norm.parameters()]
    else:
        modules = ports.biasable
        if config.terms == "all-biases":
            others = () if ports.extra_input is None else ports.extra_input.norms
            modules = list(dict.fromkeys([*modules, *ports.norms, *others]))
        trained = add_biases(modules)
    if not trained:
        raise ValueError(f"bitfit: no {config.terms} in this backbone")
    for parameter in trained:
        parameter.requires_grad = True
    return model


def trainable_parameters(dims: Dims, config: BitFitConfig) -> int:
    """Number of bias entries, or of norm scales (one a sublayer, one a stack)."""
    if config.terms == "biases":
        return dims.bias_terms
    if config.terms == "all-biases":
        final = sum(stack.final_norm for stack in dims.stacks.values())
        return dims.bias_terms + (final + dims.extra_input_norms) * dims.hidden_size
    return (dims.num_sublayers + len(dims.stacks)) * dims.hidden_size


METHOD = Method(
    name="bitfit",
    title="BitFit",
    source="Ben Zaken et al. 2022, arXiv:2106.10199, section 3",
    config=BitFitConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
)
