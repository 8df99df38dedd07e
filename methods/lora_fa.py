"""LoRA-FA: LoRA whose projection down stays as it was drawn, so that its input need not be kept.

y = W x + (alpha / r) B A x,  A: [r, d_in] frozen,  B: [d_out, r] trained, at 0 first.
Autograd keeps A x, [B, T, r], for B's gradient, and no longer dropout(x), [B, T, d_in], for A's.
The layers are peft's; the paper's own optimizer, which corrects B's gradient, is not used.
Source: Zhang et al. 2023, arXiv:2308.03303, section 3.1.
"""

from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.method import Method
from petl_bench.peft_methods.low_rank import LowRankConfig, fit, with_updates


class LoraFaConfig(LowRankConfig):
    """The update, of which A stays as drawn."""


def attach(model: nn.Module, ports: Ports, config: LoraFaConfig) -> nn.Module:
    """Peft's model with an update beside every target projection, every A frozen."""
    lora: nn.Module = with_updates(model, ports, config)
    for name, parameter in lora.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad = False
    return lora


def trainable_parameters(dims: Dims, config: LoraFaConfig) -> int:
    """R d_out a target; the task head.

    T5-base, r = 32 on q and v: 36 attentions * 2 * 32 * 768 = 1,769,472, half of LoRA's.
    """
    outputs = (wide for target in config.targets for _, wide in dims.shapes(target))
    return config.r * sum(outputs) + dims.task_head_parameters


def unsupported(dims: Dims, config: LoraFaConfig) -> str | None:
    """A target that the backbone does not have."""
    return dims.lacks(config.targets)


METHOD = Method(
    name="lora_fa",
    title="LoRA-FA",
    source="Zhang et al. 2023, arXiv:2308.03303, section 3.1",
    config=LoraFaConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=unsupported,
    fit=fit,
)
