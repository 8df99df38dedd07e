"""The numbers that a comparison may look at, named as the columns of `petl-bench show --csv`."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from petl_bench.errors import UsageError, hint
from petl_bench.record import Category, Measurement, Phase
from petl_bench.units import format_bytes, format_count

_OF_TRAINING = (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER_STEP)


class Unit(StrEnum):
    """What a field counts."""

    BYTES = "bytes"
    COUNT = "count"
    SECONDS = "s"


@dataclass(frozen=True)
class Field:
    """One number of a measurement; less is better. None where a measurement has no such number."""

    name: str
    unit: Unit
    values: Callable[[Measurement], tuple[float, ...]]  # one a repetition
    reduce: Callable[[tuple[float, ...]], float] = max

    def of(self, measurement: Measurement) -> float | None:
        """The field's value: of bytes the highest repetition, of seconds the median."""
        values = self.values(measurement)
        return self.reduce(values) if values else None

    def spread(self, measurement: Measurement) -> float:
        """How far apart the repetitions are, as a share of the lowest."""
        values = self.values(measurement)
        return (max(values) - min(values)) / min(values) if values and min(values) > 0 else 0.0

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    def text(self, value: float, *, signed: bool = False) -> str:
        """`value` for people; with `signed`, a plus sign where it is above zero."""
        plus = "+" if signed and value > 0 else ""
        if self.unit is Unit.BYTES:
            return plus + format_bytes(int(value))
        if self.unit is Unit.COUNT:
            minus = "-" if value < 0 else ""
            return plus + minus + format_count(abs(int(value)))
        return f"{plus}{value * 1000:.2f} ms"


def _peaks(name: str) -> Callable[[Measurement], tuple[float, ...]]:
    def values(measurement: Measurement) -> tuple[float, ...]:
        steps = ([getattr(memory, name) for memory in step.values()] for step in measurement.steps)
        return tuple(max(peaks) for peaks in steps if None not in peaks)

    return values


def _phase(phase: Phase) -> Callable[[Measurement], tuple[float, ...]]:
    return lambda measurement: tuple(
        step[phase].peak_allocated_bytes for step in measurement.steps if phase in step
    )


def _category(category: Category) -> Callable[[Measurement], tuple[float, ...]]:
    def values(measurement: Measurement) -> tuple[float, ...]:
        found = measurement.peak().by_category
        return () if found is None else (found.get(category, 0),)

    return values


def _single(name: str) -> Callable[[Measurement], tuple[float, ...]]:
    def values(measurement: Measurement) -> tuple[float, ...]:
        value = getattr(measurement, name)
        return () if value is None else (value,)

    return values


PEAK_ALLOCATED = Field("peak_allocated", Unit.BYTES, _peaks("peak_allocated_bytes"))

FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        PEAK_ALLOCATED,
        Field("peak_reserved", Unit.BYTES, _peaks("peak_reserved_bytes")),
        Field("peak_requested", Unit.BYTES, _peaks("peak_requested_bytes")),
        *(Field(f"peak_{phase}_allocated", Unit.BYTES, _phase(phase)) for phase in _OF_TRAINING),
        Field("load_allocated", Unit.BYTES, lambda m: (m.load.end_allocated_bytes,)),
        Field("device_used", Unit.BYTES, _single("device_used_bytes")),
        *(Field(category.value, Unit.BYTES, _category(category)) for category in Category),
        Field("total_parameters", Unit.COUNT, _single("total_parameters")),
        Field("trainable_parameters", Unit.COUNT, _single("trainable_parameters")),
        Field("flops_per_step", Unit.COUNT, _single("flops_per_step")),
        Field("step_time", Unit.SECONDS, lambda m: m.step_times_s or (), median),
    )
}
"""By name. A category is what it holds at the overall peak."""


def find(name: str) -> Field:
    """The field called `name`, with or without its unit.

    Raises:
        UsageError: no such field.
    """
    plain = name.removesuffix("_bytes").removesuffix("_s")
    for known in (name, plain):
        if known in FIELDS:
            return FIELDS[known]
    raise UsageError(f"field: no field {name!r}; {hint(plain, FIELDS)}")
