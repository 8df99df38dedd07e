"""BitFit: only bias terms train.

`biases` are those of every projection, every sublayer norm and a language head. T5 has none, so
there, and wherever one is missing, it gets one that starts at zero, as in the LST authors' code
for text; `all-biases` adds those of the stacks' final norms and of the norms of an image's
embedding, as their code for images does; `norms` trains the vectors of the norms instead, the
only ones T5 owns.
Source: Ben Zaken, Ravfogel & Goldberg 2022, arXiv:2106.10199, section 3.
"""

from typing import Literal

from pydantic import Field
from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports, add_biases
from petl_bench.method import LayeredConfig, Method, freeze, leaves_a_layer


class BitFitConfig(LayeredConfig):
    """Which vectors train."""

    terms: Literal["biases", "all-biases", "norms"] = Field(
        "biases",
        description="biases: of projections, sublayer norms and head; all-biases: of other norms, "
        "too; norms: all of theirs",
    )


def attach(model: nn.Module, ports: Ports, config: BitFitConfig) -> nn.Module:
    """Freeze all but the chosen vectors."""
    freeze(model, keep=ports.task_head)
    ports = ports.above(config.freeze_lower)
    if config.terms == "norms":
        trained = [parameter for norm in ports.norms for parameter in norm.parameters()]
    else:
        modules = ports.biasable
        if config.terms == "all-biases":
            others = () if ports.extra_input is None else ports.extra_input.norms
            modules = list(dict.fromkeys([*modules, *ports.norms, *others]))
        trained = add_biases(modules, ports.like)
    if not trained:
        raise ValueError(f"bitfit: no {config.terms} in this backbone")
    for parameter in trained:
        parameter.requires_grad = True
    return model


def trainable_parameters(dims: Dims, config: BitFitConfig) -> int:
    """Number of bias entries, or of norm entries; and the task head."""
    dims = dims.above(config.freeze_lower)
    if config.terms == "norms":
        return dims.norm_parameters + dims.task_head_parameters
    terms = dims.bias_terms
    if config.terms == "all-biases":
        final = sum(stack.final_norm for stack in dims.stacks.values())
        terms += (final + dims.extra_input_norms) * dims.hidden_size
    return terms + dims.task_head_parameters


METHOD = Method(
    name="bitfit",
    title="BitFit",
    source="Ben Zaken et al. 2022, arXiv:2106.10199, section 3",
    config=BitFitConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=leaves_a_layer,
)
