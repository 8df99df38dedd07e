"""Records as rows of plain values, for programs; a number that is absent is null."""

from collections.abc import Callable, Iterable
from statistics import median

import pandas as pd

from petl_bench.garbage import collection_paused
from petl_bench.record import Category, Phase, Record
from petl_bench.tables.groups import Group, GroupKeys, is_baseline

STEP_PHASES = tuple(phase for phase in Phase if phase not in {Phase.LOAD, Phase.INITIALISE})


Value = str | int | float | None


class Row:
    """A record beside the peak of its group's baseline; what several columns ask for, once."""

    __slots__ = ("by_category", "by_phase", "case", "fit", "peak_bytes", "record", "seen", "whole")

    def __init__(self, record: Record, whole: int | None = None) -> None:
        self.record = record
        self.case = record.case
        self.whole = whole  # bytes that the baseline allocates at its peak
        self.seen = seen = record.measurement  # None where the case did not finish
        self.fit = seen.fit if seen else None
        peaks = seen.peaks() if seen else {}
        if seen and seen.initialise:
            peaks[Phase.INITIALISE] = seen.initialise
        self.by_phase = {phase: memory.peak_allocated_bytes for phase, memory in peaks.items()}
        highest = seen.peak() if seen else None
        self.peak_bytes = highest.peak_allocated_bytes if highest else None
        self.by_category = highest.by_category if highest else None

    @property
    def trainable_percent(self) -> float | None:
        """Of the backbone's parameters."""
        # The LST paper's denominator: the backbone as it was, without what the method adds.
        if self.seen is None or not self.seen.backbone_parameters:
            return None
        return 100 * self.seen.trainable_parameters / self.seen.backbone_parameters

    @property
    def saving_percent(self) -> float | None:
        """Of the baseline's peak."""
        return saving_percent(self.peak_bytes, self.whole)

    @property
    def samples_per_s(self) -> float | None:
        """Measured; the median of the timed steps."""
        if self.seen is None or not self.seen.step_times_s:
            return None
        return self.case.workload.batch_size / median(self.seen.step_times_s)

    @property
    def roofline_samples_per_s(self) -> float | None:
        """Estimated."""
        if self.seen is None or self.seen.roofline is None:
            return None
        return self.case.workload.batch_size / self.seen.roofline.step_s


def _measured_column(name: str) -> tuple[str, Callable[[Row], Value]]:
    def get(row: Row) -> int | None:
        return getattr(row.seen, name) if row.seen else None

    return "Int64", get


def _phase_column(phase: Phase) -> tuple[str, Callable[[Row], Value]]:
    return "Int64", lambda row: row.by_phase.get(phase)


def _category_column(category: Category) -> tuple[str, Callable[[Row], Value]]:
    def get(row: Row) -> int | None:
        return None if row.by_category is None else row.by_category.get(category, 0)

    return "Int64", get


_COLUMNS: dict[str, tuple[str, Callable[[Row], Value]]] = {
    "method": ("string", lambda row: row.case.method.name),
    "label": ("string", lambda row: row.record.label),
    "backbone": ("string", lambda row: row.case.backbone.name),
    "dtype": ("string", lambda row: str(row.case.backbone.dtype)),
    "attention": ("string", lambda row: str(row.case.backbone.attention)),
    "batch_size": ("Int64", lambda row: row.case.workload.batch_size),
    "source_length_tokens": ("Int64", lambda row: row.case.workload.source_length_tokens),
    "target_length_tokens": ("Int64", lambda row: row.case.workload.target_length_tokens),
    "mode": ("string", lambda row: str(row.case.workload.mode)),
    "optimizer": ("string", lambda row: row.case.workload.optimizer),
    "origin": ("string", lambda row: str(row.record.origin)),
    "device": ("string", lambda row: row.record.environment.place),
    "status": ("string", lambda row: str(row.record.status)),
    "reason": ("string", lambda row: row.record.reason),
    "requested_bytes": ("Int64", lambda row: row.record.requested_bytes),
    "fits": ("boolean", lambda row: row.fit.refusal is None if row.fit else None),
    "capacity_bytes": ("Int64", lambda row: row.fit.capacity_bytes if row.fit else None),
    "total_parameters": _measured_column("total_parameters"),
    "backbone_parameters": _measured_column("backbone_parameters"),
    "trainable_parameters": _measured_column("trainable_parameters"),
    "trainable_percent": ("Float64", lambda row: row.trainable_percent),
    "peak_allocated_bytes": ("Int64", lambda row: row.peak_bytes),
    "peak_reserved_bytes": _measured_column("peak_reserved_bytes"),
    **{
        f"peak_{phase}_allocated_bytes": _phase_column(phase)
        for phase in (Phase.INITIALISE, *STEP_PHASES)
    },
    # What stays once the model stands; the step's peaks include it.
    "load_allocated_bytes": (
        "Int64",
        lambda row: row.seen.load.end_allocated_bytes if row.seen else None,
    ),
    **{f"{category}_bytes": _category_column(category) for category in Category},
    "saving_percent": ("Float64", lambda row: row.saving_percent),
    "flops_per_step": _measured_column("flops_per_step"),
    "samples_per_s": ("Float64", lambda row: row.samples_per_s),
    "roofline_samples_per_s": ("Float64", lambda row: row.roofline_samples_per_s),
    "case_id": ("string", lambda row: row.record.case_id),
}


_OF_GROUP = {
    *("backbone", "dtype", "attention", "batch_size", "source_length_tokens"),
    *("target_length_tokens", "mode", "optimizer", "origin", "device"),
}
"""Columns that have one value in a whole group."""


def values(group: Group) -> list[dict[str, Value]]:
    """The group's records as plain values, by the column names of `to_frame`."""
    whole = peak_bytes(group.baseline)
    rows = [Row(record, whole) for record in group.records]
    return [{name: get(row) for name, (_, get) in _COLUMNS.items()} for row in rows]


def peak_bytes(record: Record | None) -> int | None:
    """What it allocates at its peak, if there is a record and it finished."""
    return record.measurement.peak_allocated_bytes if record and record.measurement else None


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record, in the order given: raw integers, null where there is no number.

    Columns end in their unit. `trainable_percent` is of `backbone_parameters`; `saving_percent`
    is of the group's full fine-tuning; the columns named after categories are at the overall
    peak; `load_allocated_bytes` is what is held once the model stands.
    """
    key_of = GroupKeys()
    members: dict[tuple[str, ...], int] = {}  # groups by number
    numbers: list[int] = []  # of each record's group
    peaks: list[int | None] = []
    wholes: dict[int, int] = {}  # the newest baseline's peak, by group
    columns: dict[str, list[Value]] = {name: [] for name in _COLUMNS}
    adding = [(columns[name].append, get) for name, (_, get) in _COLUMNS.items()]
    of_group = [adding[place] for place, name in enumerate(_COLUMNS) if name in _OF_GROUP]
    of_record = [adding[place] for place, name in enumerate(_COLUMNS) if name not in _OF_GROUP]
    with collection_paused():
        for record in records:
            row = Row(record)
            number = members.setdefault(key_of(record), len(members))
            numbers.append(number)
            peaks.append(row.peak_bytes)
            if is_baseline(record) and row.peak_bytes is not None:
                wholes[number] = row.peak_bytes
            for add, get in of_record:
                add(get(row))
            if len(columns["backbone"]) < len(members):
                for add, get in of_group:
                    add(get(row))
        # A baseline may come after what is compared with it.
        columns["saving_percent"] = [
            saving_percent(peak, wholes.get(number))
            for peak, number in zip(peaks, numbers, strict=True)
        ]
        arrays = {
            name: pd.Series(columns[name], dtype=dtype).array
            for name, (dtype, _) in _COLUMNS.items()
        }
        for name in _OF_GROUP:
            arrays[name] = arrays[name].take(numbers)
        return pd.DataFrame(arrays)


def saving_percent(peak: int | None, whole: int | None) -> float | None:
    """What `peak` bytes save of the baseline's."""
    return None if peak is None or not whole else 100 * (whole - peak) / whole


def to_csv(frame: pd.DataFrame) -> str:
    """`frame` as CSV with a header; nulls are empty."""
    return frame.to_csv(index=False, lineterminator="\n")
