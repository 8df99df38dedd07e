"""How far a field may grow: `peak_allocated:1%`, `peak_reserved:2MiB`, `trainable_parameters:0`."""

import re
from dataclasses import dataclass
from fractions import Fraction

from petl_bench.comparison.fields import PEAK_ALLOCATED, Field, Unit, find
from petl_bench.comparison.subjects import Subject
from petl_bench.errors import UsageError
from petl_bench.record import Origin
from petl_bench.units import parse_bytes

MEASURED_FLOOR = 0.005
"""Share by which a measured number may move unnoticed, at the least: a new driver or library takes
other workspaces. A guess until two machines have measured the same commit."""

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True)
class Threshold:
    """A field, and how far it may grow from base to new; neither limit given: its noise."""

    field: Field
    share: Fraction | None = None
    size: int | None = None

    def allowed(self, base: Subject, new: Subject) -> float:
        """By how much, in the field's unit, `new` may exceed `base`.

        By default a simulated number may not move. A measured one may move by as much as its
        repetitions on either side are apart, or by MEASURED_FLOOR where that is more.
        """
        if self.size is not None:
            return self.size
        assert base.measurement is not None
        assert new.measurement is not None
        value = self.field.of(base.measurement) or 0
        if self.share is not None:
            return float(self.share * Fraction(value))
        if base.origin is Origin.SIMULATED:
            return 0
        spreads = [self.field.spread(side.measurement) for side in (base, new) if side.measurement]
        return value * max(MEASURED_FLOOR, *spreads)

    @property
    def text(self) -> str:
        """As it was written."""
        if self.share is not None:
            return f"{self.field.name}:{float(self.share * 100):g}%"
        if self.size is not None:
            return f"{self.field.name}:{self.size}"
        return self.field.name


DEFAULT = Threshold(PEAK_ALLOCATED)


def parse(text: str) -> Threshold:
    """The threshold that `text` means: `FIELD`, `FIELD:1%` or `FIELD:2MiB`.

    Raises:
        UsageError: no such field, or no limit that suits it.
    """
    name, colon, limit = text.partition(":")
    field = find(name.strip())
    if not colon:
        return Threshold(field)
    limit = limit.strip()
    if limit == "0":
        return Threshold(field, size=0)
    if match := _PERCENT.fullmatch(limit):
        return Threshold(field, share=Fraction(match[1]) / 100)
    if field.unit is Unit.BYTES:
        try:
            return Threshold(field, size=parse_bytes(limit))
        except ValueError:
            pass
    choices = "a percent or a size such as 2MiB" if field.unit is Unit.BYTES else "a percent or 0"
    raise UsageError(f"{name}: cannot read {limit!r}; write {choices}")
