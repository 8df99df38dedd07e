"""Groups: records that may be compared with each other.

Measured and simulated numbers never share one: a group's records asked the same question (backbone,
workload) of the same place (origin, device), and savings are taken within a group only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from petl_bench.case import BASELINE_METHOD, Backbone, Frozen, Workload
from petl_bench.record import Environment, Origin, Record


@dataclass(frozen=True, kw_only=True)
class Group:
    """Records of one backbone and workload, from one origin and device."""

    origin: Origin
    device: str  # and the era that it stands for
    backbone: Backbone
    workload: Workload
    records: tuple[Record, ...]

    @property
    def place(self) -> str:
        """Where the numbers come from, such as "simulated for a100-80gb"."""
        return f"{self.origin} {'on' if self.origin is Origin.MEASURED else 'for'} {self.device}"

    @property
    def setting(self) -> str:
        """Everything but backbone and place; what differs from a default is always named."""
        load = self.workload
        named = ("batch_size", "source_length_tokens", "target_length_tokens", "optimizer", "mode")
        silent = () if load.optimizer else (None,)  # what nothing that trains has
        parts = [
            self.backbone.dtype.value,
            self.backbone.attention.value,
            *([self.backbone.quantize.value] if self.backbone.quantize else []),
            f"batch {load.batch_size}",
            f"source {load.source_length_tokens}",
            *([f"target {load.target_length_tokens}"] if load.target_length_tokens else []),
            load.optimizer.value if load.optimizer else load.mode.value,
        ]
        parts += [
            f"{name.replace('_', ' ')} {getattr(load, name)}"
            for name, field in type(load).model_fields.items()
            if name not in named and getattr(load, name) not in {field.default, *silent}
        ]
        return ", ".join(parts)

    @property
    def title(self) -> str:
        """The group in one line: backbone, setting and place."""
        return f"{self.backbone.name}, {self.setting}: {self.place}"

    @property
    def baseline(self) -> Record | None:
        """The newest full fine-tuning that ended well, if there is one."""
        found = [record for record in self.records if is_baseline(record) and record.measurement]
        return found[-1] if found else None


def groups(records: Iterable[Record]) -> list[Group]:
    """`records` split into comparable groups, in order of first appearance."""
    key_of = GroupKeys()
    members: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        members.setdefault(key_of(record), []).append(record)
    return [
        Group(
            origin=first.origin,
            device=first.environment.place,
            backbone=first.case.backbone,
            workload=first.case.workload,
            records=tuple(found),
        )
        for found in members.values()
        for first in found[:1]
    ]


class GroupKeys:
    """What the records of a group have in common; what they share as an object is written once."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[Frozen, str]] = {}  # by identity, and so kept alive

    def __call__(self, record: Record) -> tuple[str, ...]:
        """Equal for records that may be compared."""
        case = record.case
        parts = record.environment, case.backbone, case.workload
        return record.origin, *map(self._text, parts)

    def _text(self, part: Frozen) -> str:
        known = self._texts.get(id(part))
        if known is None:
            text = part.place if isinstance(part, Environment) else part.model_dump_json()
            known = self._texts[id(part)] = part, text
        return known[1]


def is_baseline(record: Record) -> bool:
    """Whether savings are against this one."""
    return record.case.method.name == BASELINE_METHOD


def peaks_by_label(group: Group) -> dict[str, int | None]:
    """Peak allocated bytes of the group's methods, null where a case did not finish."""
    return {
        record.label: record.measurement.peak_allocated_bytes if record.measurement else None
        for record in group.records
    }


def distinct_names(found: Sequence[Group]) -> list[str]:
    """What sets each group apart from the others, in words."""
    parts = [[group.backbone.name, *group.setting.split(", "), group.place] for group in found]
    common = set(parts[0]).intersection(*parts)
    return [", ".join(part for part in own if part not in common) or own[0] for own in parts]
