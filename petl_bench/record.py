"""The answer: what was measured or simulated, where, and how it ended.

Raw integers in bytes; statistics, percents and MiB are made at the edge. History of the schema:
  1  first version. Later records of it may have a measurement's `fit`, and baselines `at_peak`.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from petl_bench.case import Case, Frozen

SCHEMA_VERSION: Literal[1] = 1
PROTOCOL_VERSION = 1
"""Version of the question: the training step, the profilers and the backbones. Records of
different protocols are not comparable."""


class Phase(StrEnum):
    """A part of a training run whose memory is told apart."""

    LOAD = "load"
    INITIALISE = "initialise"  # what a method does with examples before it trains
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER_STEP = "optimizer_step"
    PREFILL = "prefill"  # of generation: the prompt, until the first token's logits
    DECODE = "decode"  # every token from there on


class Category(StrEnum):
    """What a byte is for. Names follow torch.profiler's memory categories."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    GRADIENT = "gradient"
    OPTIMIZER_STATE = "optimizer_state"
    ACTIVATION = "activation"  # saved for backward
    TEMPORARY = "temporary"
    INPUT = "input"
    WORKSPACE = "workspace"  # library scratch, such as cuBLAS's


class Origin(StrEnum):
    """How the numbers were got. The two never share a column."""

    MEASURED = "measured"
    SIMULATED = "simulated"


class Status(StrEnum):
    """How the case ended."""

    OK = "ok"
    OOM = "oom"
    SKIPPED = "skipped"
    ERROR = "error"


_VALUE = ConfigDict(extra="forbid", allow_inf_nan=False)


# A record has a dozen of these, and a timeline thousands: in slots they take a third of the room,
# and less time to make, than models would.
@dataclass(frozen=True, slots=True, kw_only=True, config=_VALUE)
class PhaseMemory:
    """Memory of one phase of one step, by the caching allocator's counters."""

    peak_allocated_bytes: int  # blocks that hold live tensors
    peak_reserved_bytes: int  # segments held from the device
    end_allocated_bytes: int
    peak_requested_bytes: int | None = None  # what tensors asked for, before rounding to blocks
    by_category: dict[Category, int] | None = None  # at the allocated peak; sums to it
    elapsed_s: float | None = None  # None when simulated

    @model_validator(mode="after")
    def _sums(self) -> "PhaseMemory":
        if self.by_category is not None:
            total = sum(self.by_category.values())
            if total != self.peak_allocated_bytes:
                peak = self.peak_allocated_bytes
                raise ValueError(f"by_category sums to {total}, peak_allocated_bytes is {peak}")
        return self

    def then(self, later: "PhaseMemory") -> "PhaseMemory":
        """Both as one, of a phase that came twice in a step."""
        higher = max(self, later, key=lambda memory: memory.peak_allocated_bytes)
        requested = [self.peak_requested_bytes, later.peak_requested_bytes]
        times = [self.elapsed_s, later.elapsed_s]
        return replace(
            higher,
            peak_reserved_bytes=max(self.peak_reserved_bytes, later.peak_reserved_bytes),
            end_allocated_bytes=later.end_allocated_bytes,
            peak_requested_bytes=max((n for n in requested if n is not None), default=None),
            elapsed_s=None if None in times else sum(t for t in times if t is not None),
        )


@dataclass(frozen=True, slots=True, kw_only=True, config=_VALUE)
class TimelinePoint:
    """Allocated bytes at one moment of the last measured step."""

    event: int  # index in the step's stream of allocations and frees
    phase: Phase
    by_category: dict[Category, int]

    @property
    def allocated_bytes(self) -> int:
        """Sum over the categories."""
        return sum(self.by_category.values())


@dataclass(frozen=True, slots=True, kw_only=True, config=_VALUE)
class RooflineEstimate:
    """Time of one step estimated from FLOPs and bytes moved; not a measurement."""

    card: str
    step_s: Annotated[float, Field(gt=0)]
    compute_bound_s: float
    memory_bound_s: float
    launch_bound_s: float


@dataclass(frozen=True, slots=True, kw_only=True, config=_VALUE)
class Refusal:
    """A request that did not fit, not even after every cached segment was released."""

    requested_bytes: int  # as asked, before rounding
    phase: Phase
    category: Category
    operator: str  # that asked
    allocated_bytes: int  # by then
    reserved_bytes: int  # likewise: more than allocated where fragments are left


@dataclass(frozen=True, slots=True, kw_only=True, config=_VALUE)
class Fit:
    """Whether a simulated case fits on its card."""

    capacity_bytes: int  # what the card has for tensors: its memory less the CUDA context
    refusal: Refusal | None = None  # the first; None where the case fits


@dataclass(frozen=True, slots=True, kw_only=True, config=_VALUE)
class Measurement:
    """Everything one worker saw of one case."""

    total_parameters: int  # of the module that trains, added ones included
    backbone_parameters: int
    trainable_parameters: int
    load: PhaseMemory
    initialise: PhaseMemory | None = None  # before the steps, in an allocator of its own
    # One entry a measured step, with every phase that the step has.
    steps: Annotated[
        tuple[Annotated[dict[Phase, PhaseMemory], Field(min_length=1)], ...], Field(min_length=1)
    ]
    flops_per_step: int | None = None  # forward and backward
    # Seconds by CUDA events, from a pass without a profiler.
    step_times_s: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    roofline: RooflineEstimate | None = None
    device_used_bytes: int | None = None  # NVML, this process, at its highest
    context_bytes: int | None = None  # NVML, this process, before the first tensor
    fit: Fit | None = None  # simulated; the bytes above are those of a device without a limit
    timeline: tuple[TimelinePoint, ...] = ()

    def of(self, phase: Phase) -> PhaseMemory | None:
        """The phase's memory, at its highest where it comes more than once; None: it has none."""
        outside = {Phase.LOAD: self.load, Phase.INITIALISE: self.initialise}
        return outside[phase] if phase in outside else self.peaks().get(phase)

    def peaks(self) -> dict[Phase, PhaseMemory]:
        """The memory of each phase of a step, where its allocated peak is highest."""
        highest: dict[Phase, PhaseMemory] = {}
        for step in self.steps:
            for phase, memory in step.items():
                found = highest.setdefault(phase, memory)
                if memory.peak_allocated_bytes > found.peak_allocated_bytes:
                    highest[phase] = memory
        return highest

    def peak(self, phase: Phase | None = None) -> PhaseMemory:
        """The phase memory with the highest allocated peak: of `phase`, or of the whole step."""
        peaks = self.peaks()
        if phase is not None:
            return peaks[phase]
        return max(peaks.values(), key=attrgetter("peak_allocated_bytes"))

    @property
    def peak_allocated_bytes(self) -> int:
        """Highest allocated bytes over all measured steps."""
        return self.peak().peak_allocated_bytes

    @property
    def peak_reserved_bytes(self) -> int:
        """Highest reserved bytes over all measured steps."""
        return max([memory.peak_reserved_bytes for step in self.steps for memory in step.values()])


@dataclass(frozen=True, slots=True, kw_only=True, config=_VALUE)
class Part:
    """Tensors alive at the peak that differ in nothing but their layer."""

    category: Category
    module: str  # that made them, by the backbone's own name, `*` for the layer's number
    # Numbers of the layers that each have this part, as in "0,2-11"; "" outside of layers.
    layers: Annotated[str, Field(pattern=r"^(\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*)?$")] = ""
    operator: str  # that allocated them
    in_backward: bool = False
    source: str = ""  # the line of code that called it, of the largest
    tensors: int  # in each layer
    allocated_bytes: int  # in each layer


def place_name(device: str, emulates: str | None) -> str:
    """`device`, and the era of PyTorch that it is simulated in where that is not today's."""
    return f"{device}, as {emulates}" if emulates else device


class Environment(Frozen):
    """The place: what could change the numbers besides the case."""

    device: str  # card name: the one measured on, or the one simulated
    platform: str
    python: str
    torch: str
    transformers: str
    peft: str
    petl_bench: str
    cuda: str | None = None
    driver: str | None = None
    device_total_bytes: int | None = None
    allocator_settings: str = ""  # PYTORCH_CUDA_ALLOC_CONF / PYTORCH_ALLOC_CONF
    commit: str | None = None
    dirty: bool | None = None
    harness_sha256: str | None = None  # of petl_bench's own source files
    emulates: str | None = None  # the era of PyTorch that a simulation stands for; None: today's

    @property
    def place(self) -> str:
        """The device, and the era where it is not today's."""
        return place_name(self.device, self.emulates)


class Record(Frozen):
    """One cell's question, place and answer: one line of a store."""

    schema_version: Literal[1] = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    case_id: str
    case: Case
    label: str  # the method as it was asked for, such as "lora[r=8]"; for display
    origin: Origin
    status: Status
    reason: str | None = None  # one sentence, when status is not ok
    requested_bytes: int | None = None  # the allocation that failed, when status is oom
    method_source_sha256: str | None = None  # of the plugin's file; recorded, never compared
    environment: Environment
    measurement: Measurement | None = None
    at_peak: tuple[Part, ...] = ()  # sums to the allocated peak; simulated baselines have it
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    worker_s: float | None = None  # wall time the worker spent on the case

    @model_validator(mode="after")
    def _consistent(self) -> "Record":
        self.check()
        return self

    def check(self) -> None:
        """Nothing, if what it says goes together.

        Raises:
            ValueError: it does not.
        """
        if (self.status is Status.OK) != (self.measurement is not None):
            raise ValueError("a record has a measurement if, and only if, its status is ok")
        if self.status is not Status.OK and not self.reason:
            raise ValueError(f"a record with status {self.status} must give its reason")
        if self.requested_bytes is not None and self.status is not Status.OOM:
            raise ValueError("requested_bytes belongs to records with status oom")
        if self.measurement is None:
            return
        if self.origin is Origin.MEASURED and self.measurement.fit is not None:
            raise ValueError("fit is simulated; a measured record cannot have it")
        if self.origin is Origin.SIMULATED:
            for name in ("step_times_s", "device_used_bytes", "context_bytes"):
                if getattr(self.measurement, name) is not None:
                    raise ValueError(f"{name} is measured; a simulated record cannot have it")

    @property
    def ending(self) -> Status:
        """How the case ends on its card: as it did, or "oom" if a simulation is too large."""
        fit = self.measurement.fit if self.measurement else None
        return Status.OOM if fit and fit.refusal else self.status


def load_record(data: Any) -> Record:
    """The record in `data`, migrated from older schema versions.

    Raises:
        ValueError: not a record, or one of a newer schema.
    """
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a line of a file, not an argument
    version = data.get("schema_version")
    if type(version) is not int or version > SCHEMA_VERSION or version < 1:
        raise ValueError(f"schema_version {version!r} is not supported (newest: {SCHEMA_VERSION})")
    return _with_todays_id(Record.model_validate(data))


def load_record_json(line: bytes) -> Record:
    """The record in a line of JSON: `load_record`, several times faster where nothing is amiss.

    Raises:
        ValueError: not a record, or one of a newer schema.
    """
    try:
        return _with_todays_id(Record.model_validate_json(line))
    except ValueError:  # an older schema, or what the other way has the better words for
        try:
            return load_record(json.loads(line.decode("utf-8")))
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _with_todays_id(record: Record) -> Record:
    """The id follows the fields that a case has today; those it gained since are at defaults."""
    return record.model_copy(update={"case_id": record.case.case_id})
