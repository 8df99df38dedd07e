"""LoRA-FA: LoRA whose projection down stays as it was drawn, so that its input need not be kept.

y = W x + (alpha / r) B A x,  A: [r, d_in] frozen,  B: [d_out, r] trained, at 0 first.
Autograd keeps A x, [B, T, r], for B's gradient, and no longer dropout(x), [B, T, d_in], for A's.
The layers are peft's; the paper's own optimizer, which corrects B's gradient, is not used.
Source: Zhang et al. 2023, arXiv:2308.03303, section 3.1.
"""

from pydantic import Field, field_validator
from torch import nn

from petl_bench.backbones import FAMILIES
from petl_bench.backbones.ports import Dims, Ports
from petl_bench.case import Backbone
from petl_bench.method import Method, MethodConfig
from petl_bench.peft_methods.attaching import get_peft_model


class LoraFaConfig(MethodConfig):
    """peft's options that shape the update, by peft's names."""

    r: int = Field(32, gt=0, description="rank of the update")
    alpha: int = Field(32, gt=0, description="the update is scaled by alpha / r")
    targets: tuple[str, ...] = Field(("q", "v"), description="projections: q, k, v, o, wi, wo")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before A")

    @field_validator("targets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(","))
        return value


def fit(backbone: Backbone, config: LoraFaConfig) -> LoraFaConfig:
    """Where queries, keys and values are one projection, that one is the target."""
    dims = FAMILIES[backbone.family].dims(backbone.config)
    return config.model_copy(update={"targets": dims.nearest(config.targets)})


def attach(model: nn.Module, ports: Ports, config: LoraFaConfig) -> nn.Module:
    """Peft's model with an update beside every target projection, every A frozen."""
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    roles = ports.projections
    missing = [target for target in config.targets if target not in roles]
    if missing:
        raise ValueError(f"lora_fa: no projection {missing[0]!r}; here are: {', '.join(roles)}")
    names = {module: name for name, module in model.named_modules()}
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
