"""What one training step of a user's own model takes."""

import hashlib
import json
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from petl_bench.case import Frozen
from petl_bench.comparison.subjects import Subject
from petl_bench.errors import UsageError
from petl_bench.record import (
    PROTOCOL_VERSION,
    Category,
    Environment,
    Measurement,
    Origin,
    Part,
    Phase,
    Status,
)
from petl_bench.tables import STEP_PHASES
from petl_bench.units import format_bytes, format_count


class Footprint(Frozen):
    """The question (name, batch, optimizer), the place, and the answer.

    A record is the same for a method on a backbone; this is for a model that has neither.
    """

    schema_version: Literal[1] = 1
    protocol_version: int = PROTOCOL_VERSION
    name: str
    batch: dict[str, str]  # "float32[8, 128]" by the name of each tensor
    optimizer: str
    origin: Origin
    environment: Environment
    measurement: Measurement
    at_peak: tuple[Part, ...] = ()  # sums to the allocated peak; () where it was measured

    @property
    def case_id(self) -> str:
        """First 16 hex digits of the sha256 of the question's canonical JSON."""
        question = [self.name, self.batch, self.optimizer]
        canonical = json.dumps(question, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def peak_allocated_bytes(self) -> int:
        """Highest allocated bytes of a step."""
        return self.measurement.peak_allocated_bytes

    @property
    def peak_reserved_bytes(self) -> int:
        """Highest reserved bytes of a step: what the card must have beside the CUDA context."""
        return self.measurement.peak_reserved_bytes

    @property
    def by_category(self) -> dict[Category, int]:
        """Bytes at the allocated peak by what they are for; {} where it was measured."""
        return dict(self.measurement.peak().by_category or {})

    @property
    def setting(self) -> str:
        """Batch, optimizer and place in one line."""
        batch = ", ".join(f"{name} {what}" for name, what in self.batch.items())
        how = "measured on" if self.origin is Origin.MEASURED else "simulated for"
        return f"{batch}, {self.optimizer}: {how} {self.environment.place}"

    def __str__(self) -> str:
        """Peaks, phases and categories, a line each."""
        seen = self.measurement
        trains, total = format_count(seen.trainable_parameters), format_count(seen.total_parameters)
        allocated = format_bytes(self.peak_allocated_bytes)
        lines = [
            f"{self.name}: {trains} of {total} parameters train; {self.setting}",
            f"peak allocated {allocated}, reserved {format_bytes(self.peak_reserved_bytes)}",
        ]
        for phase in STEP_PHASES:
            if any(phase in step for step in seen.steps):
                peak = format_bytes(seen.peak(phase).peak_allocated_bytes)
                lines.append(f"  {_words(phase)}: {peak}")
        for category, size in sorted(self.by_category.items(), key=lambda item: -item[1]):
            lines.append(f"  at the peak, {_words(category)}: {format_bytes(size)}")
        return "\n".join(lines)

    def subject(self) -> Subject:
        """The footprint as something to compare."""
        return Subject(
            case_id=self.case_id,
            label=self.name,
            setting=self.setting,
            origin=self.origin,
            environment=self.environment,
            protocol_version=self.protocol_version,
            ending=Status.OK,
            reason=None,
            measurement=self.measurement,
            at_peak=self.at_peak,
        )

    def save(self, path: Path) -> None:
        """Write it as JSON, lines short enough to review.

        Raises:
            OSError: the file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n", "utf-8")
        draft.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UsageError: no such file, or it is not a footprint.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UsageError(f"baseline: cannot read {path}: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "file"
            raise UsageError(f"baseline: {path}: {where}: {first['msg']}") from None


def _words(name: Phase | Category) -> str:
    return name.replace("_", " ")
