"""The question: which method, on which backbone, under which workload.

Everything here is a frozen value that serialises to JSON; nothing here imports torch.
"""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypeAliasType  # typing's own is of Python 3.12

PositiveInt = Annotated[int, Field(gt=0, lt=2**31, strict=True)]  # true is not 1


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


class Quantization(StrEnum):
    """How the backbone's frozen linear layers are stored; bitsandbytes' layers."""

    NF4 = "nf4"
    NF4_DOUBLE = "nf4_double"  # the blocks' maxima are quantised, too
    INT8 = "int8"  # LLM.int8()


class Optimizer(StrEnum):
    """Optimizer of the trainable parameters, each as its library builds it by default on CUDA."""

    ADAMW = "adamw"  # torch.optim's, foreach
    ADAMW_FUSED = "adamw_fused"
    ADAMW_LOOP = "adamw_loop"  # one parameter after the other
    ADAMW_8BIT = "adamw_8bit"  # bitsandbytes'
    ADAFACTOR = "adafactor"  # torch.optim's
    SGD = "sgd"


class ZeroGrad(StrEnum):
    """What becomes of gradients after an optimizer step."""

    DEFAULT = (
        "default"  # the era's: torch lets them go since 2.0, and filled them with zeros before
    )
    FREE = "free"  # let go, as by `parameter.grad = None`
    KEEP = "keep"  # filled with zeros


class Autocast(StrEnum):
    """Type that a forward pass casts to, operator by operator; weights stay as they are."""

    BF16 = "bf16"
    FP16 = "fp16"  # with a scaled loss


class Parallel(StrEnum):
    """How several ranks train one model, each on a batch of its own."""

    NONE = "none"
    DDP = "ddp"  # DistributedDataParallel: a whole model a rank
    FSDP2 = "fsdp2"  # fully_shard on every layer: a part of each tensor a rank


class Mode(StrEnum):
    """What a step does with the model."""

    TRAINING = "training"
    INFERENCE = "inference"  # a forward pass as in evaluation, loss included, without gradients
    GENERATE = "generate"  # the target's tokens one by one, with a cache of keys and values


class Backbone(Frozen):
    """An architecture with its dimensions, weight dtype and attention implementation.

    `config` holds what shapes the network and nothing else, whatever else a folder's file says.
    """

    name: str
    family: str
    config: dict[str, ConfigValue]
    dtype: DType = DType.FP32
    attention: Attention = Attention.EAGER
    quantize: Quantization | None = None


class MethodChoice(Frozen):
    """A method by name, with its configuration fully resolved (defaults included)."""

    name: str
    config: dict[str, Any] = {}


def _is_neutral(value: Any) -> bool:
    """Fields about ranks are part of the question only where there are ranks."""
    return value is None or value is Parallel.NONE


class Workload(Frozen):
    """One step's load, and how often it is taken.

    Where nothing trains, no field of training may be given: optimizer and clipping are None.
    """

    batch_size: PositiveInt = Field(
        100, description="examples a step, in all of its parts; of one rank, where there are more"
    )
    source_length_tokens: PositiveInt = 128
    target_length_tokens: PositiveInt | None = Field(
        3, description="None where an example is its source alone; mode generate makes as many"
    )
    images: PositiveInt = Field(1, description="an example, for backbones that see any")
    choices: PositiveInt = Field(
        1,
        description="texts an example, for backbones that choose between them",
        exclude_if=lambda value: value == 1,
    )
    mode: Mode = Mode.TRAINING
    beams: PositiveInt = Field(1, description="mode generate; 1 is greedy")
    autocast: Autocast | None = None
    checkpointing: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="layers run again in backward, instead of being kept"
    )
    accumulation_steps: PositiveInt = Field(1, description="parts of a batch, one after another")
    ddp_buckets: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="hold what DistributedDataParallel gathers gradients in"
    )
    optimizer: Optimizer | None = Optimizer.ADAMW
    clip_grad_norm: Annotated[float, Field(gt=0, strict=True)] | None = 1.0
    zero_grad: ZeroGrad = Field(ZeroGrad.DEFAULT, description="gradients after a step")
    seed: Annotated[int, Field(strict=True)] = 0
    warmup_steps: PositiveInt = Field(1, description="step 0 makes optimizer state and workspaces")
    measured_steps: PositiveInt = Field(3, description="steps whose memory is recorded")
    timed_steps: PositiveInt = Field(10, description="steps timed in a pass without a profiler")

    parallel: Parallel = Field(
        Parallel.NONE, description="how ranks share the work", exclude_if=_is_neutral
    )
    world_size: Annotated[int, Field(gt=0, le=16384, strict=True)] | None = Field(
        None, description="ranks; None without any", exclude_if=_is_neutral
    )
    gradient_as_bucket_view: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="parallel ddp: gradients lie in its buckets",
        exclude_if=lambda value: not value,
    )
    reshard_after_forward: Annotated[bool, Field(strict=True)] = Field(
        default=True, description="parallel fsdp2: gather layers again in backward", exclude_if=bool
    )

    @property
    def unsteady_steps(self) -> int:
        """Steps before one that repeats itself: DDP makes its buckets anew in the second."""
        return self.warmup_steps + (self.parallel is Parallel.DDP)

    @property
    def part_size(self) -> int:
        """Examples that are in memory at once."""
        return self.batch_size // self.accumulation_steps

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps: {self.accumulation_steps} equal parts do not make a batch"
                f" of {self.batch_size}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _of_its_mode(cls, given: Any) -> Any:
        """One question has one id: a field without meaning in the mode keeps its neutral value."""
        if not isinstance(given, dict):
            return given
        _check_ranks(given)
        mode = given.get("mode", Mode.TRAINING)
        if mode != Mode.GENERATE and given.get("beams", 1) != 1:
            raise ValueError("beams: only mode generate has any")
        if mode == Mode.GENERATE and given.get("target_length_tokens", 3) is None:
            raise ValueError("target_length_tokens: mode generate is to be told how many to make")
        if mode == Mode.TRAINING:
            if given.get("optimizer", Optimizer.ADAMW) is None:
                raise ValueError("optimizer: mode training needs one")
            return given
        for field, neutral in _OF_TRAINING.items():
            if given.get(field, neutral) != neutral:
                raise ValueError(f"{field}: mode {mode} trains nothing; leave it out")
        return {**given, **_OF_TRAINING}


_OF_TRAINING: dict[str, Any] = {
    "optimizer": None,
    "clip_grad_norm": None,
    "checkpointing": False,
    "accumulation_steps": 1,
    "ddp_buckets": False,
    "zero_grad": ZeroGrad.DEFAULT,
    "parallel": Parallel.NONE,
}
"""Fields of training alone, and what they are where nothing trains."""


_OF_RANKS: dict[str, tuple[Any, tuple[Parallel, ...]]] = {
    "world_size": (None, (Parallel.DDP, Parallel.FSDP2)),
    "gradient_as_bucket_view": (False, (Parallel.DDP,)),
    "reshard_after_forward": (True, (Parallel.FSDP2,)),
}
"""Fields about ranks: what they are without a meaning, and where they have one."""


def _check_ranks(given: dict[str, Any]) -> None:
    try:
        parallel = Parallel(given.get("parallel", Parallel.NONE))
    except ValueError:
        return  # the field itself says so
    for field, (neutral, meant) in _OF_RANKS.items():
        if parallel not in meant and given.get(field, neutral) != neutral:
            raise ValueError(f"{field}: not for parallel {parallel}; leave it out")
    if parallel is Parallel.NONE:
        return
    if given.get("world_size") is None:
        raise ValueError(f"world_size: parallel {parallel} is to be told how many ranks")
    if given.get("ddp_buckets"):
        raise ValueError("ddp_buckets: of one process alone; parallel ddp has its own")


class Case(Frozen):
    """One fully resolved cell of a plan."""

    backbone: Backbone
    method: MethodChoice
    workload: Workload

    @property
    def case_id(self) -> str:
        """First 16 hex digits of the sha256 of the case's canonical JSON."""
        return id_of_case(*map(canonical, (self.backbone, self.method, self.workload)))


def canonical(part: Frozen) -> str:
    """`part` as JSON without spaces, keys in order."""
    return json.dumps(part.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def id_of_case(backbone: str, method: str, workload: str) -> str:
    """The id of the case with these parts, each as canonical JSON."""
    whole = f'{{"backbone":{backbone},"method":{method},"workload":{workload}}}'
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


BASELINE_METHOD = "full"
"""Every saving is against it, so every plan has it."""
