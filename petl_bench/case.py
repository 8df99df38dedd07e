"""The question: which method, on which backbone, under which workload.

Everything here is a frozen value that serialises to JSON; nothing here imports torch.
"""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType  # typing's own is of Python 3.12

PositiveInt = Annotated[int, Field(gt=0, strict=True)]  # true is not 1


class Frozen(BaseModel):
    """A value: immutable, strict about unknown fields, without numbers that JSON does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


ConfigValue = TypeAliasType(
    "ConfigValue",
    "bool | int | float | str | list[ConfigValue] | dict[str, ConfigValue] | None",
)
"""What a configuration may hold: JSON."""


class DType(StrEnum):
    """Storage type of the backbone's weights."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Attention(StrEnum):
    """Attention implementation, by transformers' name."""

    EAGER = "eager"
    SDPA = "sdpa"


class Optimizer(StrEnum):
    """Optimizer of the trainable parameters, each as torch.optim builds it by default on CUDA."""

    ADAMW = "adamw"
    ADAMW_FUSED = "adamw_fused"
    SGD = "sgd"


class ZeroGrad(StrEnum):
    """What becomes of gradients after an optimizer step."""

    DEFAULT = (
        "default"  # the era's: torch lets them go since 2.0, and filled them with zeros before
    )
    FREE = "free"  # let go, as by `parameter.grad = None`
    KEEP = "keep"  # filled with zeros


class Backbone(Frozen):
    """An architecture with its dimensions, weight dtype and attention implementation.

    `config` holds what shapes the network and nothing else, whatever else a folder's file says.
    """

    name: str
    family: str
    config: dict[str, ConfigValue]
    dtype: DType = DType.FP32
    attention: Attention = Attention.EAGER


class MethodChoice(Frozen):
    """A method by name, with its configuration fully resolved (defaults included)."""

    name: str
    config: dict[str, Any] = {}


class Workload(Frozen):
    """One training step's load, and how often it is taken."""

    batch_size: PositiveInt = 100
    source_length_tokens: PositiveInt = 128
    target_length_tokens: PositiveInt | None = 3  # None where an example is its source alone
    images: PositiveInt = Field(1, description="an example, for backbones that see any")
    ddp_buckets: bool = Field(
        default=False, description="hold what DistributedDataParallel gathers gradients in"
    )
    optimizer: Optimizer = Optimizer.ADAMW
    clip_grad_norm: Annotated[float, Field(gt=0, strict=True)] | None = 1.0
    zero_grad: ZeroGrad = Field(ZeroGrad.DEFAULT, description="gradients after a step")
    seed: Annotated[int, Field(strict=True)] = 0
    warmup_steps: PositiveInt = Field(1, description="step 0 makes optimizer state and workspaces")
    measured_steps: PositiveInt = Field(3, description="steps whose memory is recorded")
    timed_steps: PositiveInt = Field(10, description="steps timed in a pass without a profiler")


class Case(Frozen):
    """One fully resolved cell of a plan."""

    backbone: Backbone
    method: MethodChoice
    workload: Workload

    @property
    def case_id(self) -> str:
        """First 16 hex digits of the sha256 of the case's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


BASELINE_METHOD = "full"
"""Every saving is against it, so every plan has it."""
