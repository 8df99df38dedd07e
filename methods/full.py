"""Full fine-tuning: every parameter trains. The baseline that every saving is measured against.

Source: Raffel et al. 2020, arXiv:1910.10683, section 3.5.3 ("fine-tuning all parameters").
"""

from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.method import Method, MethodConfig


class FullConfig(MethodConfig):
    """Nothing to choose."""


def attach(model: nn.Module, ports: Ports, config: FullConfig) -> nn.Module:
    """The backbone itself, all of it trainable but for weights of few bits, which only infer."""
    del ports, config
    for parameter in model.parameters():
        parameter.requires_grad = parameter.is_floating_point()
    return model


def trainable_parameters(dims: Dims, config: FullConfig) -> int:
    """All of the backbone's parameters, tied ones once, and a new task head's."""
    del config
    return dims.total_parameters + dims.task_head_parameters


METHOD = Method(
    name="full",
    title="Full fine-tuning",
    source="Raffel et al. 2020, arXiv:1910.10683, section 3.5.3",
    config=FullConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
)
