"""Records as rows of plain values, for programs; a number that is absent is null."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import pandas as pd

from petl_bench.garbage import collection_paused
from petl_bench.record import Category, Fit, Measurement, Phase, PhaseMemory, Record
from petl_bench.tables.groups import Group, group_key, is_baseline

STEP_PHASES = tuple(phase for phase in Phase if phase not in {Phase.LOAD, Phase.INITIALISE})


Value = str | int | float | None


@dataclass(frozen=True)
class Row:
    """A record beside the baseline of its group."""

    record: Record
    baseline: Record | None

    @property
    def seen(self) -> Measurement | None:
        """What was measured or simulated; None where the case did not finish."""
        return self.record.measurement

    @cached_property  # sixteen columns ask for it
    def peak(self) -> PhaseMemory | None:
        """The phase with the highest peak."""
        return self.seen.peak() if self.seen else None

    @property
    def fit(self) -> Fit | None:
        """Whether it fits on the simulated card."""
        return self.seen.fit if self.seen else None

    @property
    def fits(self) -> bool | None:
        """The same as yes or no."""
        return self.fit.refusal is None if self.fit else None

    @property
    def load_bytes(self) -> int | None:
        """Held once the model stands."""
        return self.seen.load.end_allocated_bytes if self.seen else None

    def phase_peak_bytes(self, phase: Phase) -> int | None:
        """Peak of `phase`."""
        memory = self.seen.of(phase) if self.seen else None
        return memory.peak_allocated_bytes if memory else None

    def category_bytes(self, category: Category) -> int | None:
        """Of `category`, at the highest peak."""
        by_category = self.peak.by_category if self.peak else None
        return None if by_category is None else by_category.get(category, 0)

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
        if self.seen is None or self.baseline is None or self.baseline.measurement is None:
            return None
        whole = self.baseline.measurement.peak_allocated_bytes
        return 100 * (whole - self.seen.peak_allocated_bytes) / whole if whole else None

    @property
    def samples_per_s(self) -> float | None:
        """Measured; the median of the timed steps."""
        if self.seen is None or not self.seen.step_times_s:
            return None
        return self.record.case.workload.batch_size / median(self.seen.step_times_s)

    @property
    def roofline_samples_per_s(self) -> float | None:
        """Estimated."""
        if self.seen is None or self.seen.roofline is None:
            return None
        return self.record.case.workload.batch_size / self.seen.roofline.step_s


def _measured_column(name: str) -> tuple[str, Callable[[Row], Value]]:
    def get(row: Row) -> int | None:
        return getattr(row.seen, name) if row.seen else None

    return "Int64", get


def _phase_column(phase: Phase) -> tuple[str, Callable[[Row], Value]]:
    return "Int64", lambda row: row.phase_peak_bytes(phase)


def _category_column(category: Category) -> tuple[str, Callable[[Row], Value]]:
    return "Int64", lambda row: row.category_bytes(category)


_COLUMNS: dict[str, tuple[str, Callable[[Row], Value]]] = {
    "method": ("string", lambda row: row.record.case.method.name),
    "label": ("string", lambda row: row.record.label),
    "backbone": ("string", lambda row: row.record.case.backbone.name),
    "dtype": ("string", lambda row: row.record.case.backbone.dtype.value),
    "attention": ("string", lambda row: row.record.case.backbone.attention.value),
    "batch_size": ("Int64", lambda row: row.record.case.workload.batch_size),
    "source_length_tokens": ("Int64", lambda row: row.record.case.workload.source_length_tokens),
    "target_length_tokens": ("Int64", lambda row: row.record.case.workload.target_length_tokens),
    "mode": ("string", lambda row: row.record.case.workload.mode.value),
    "optimizer": ("string", lambda row: row.record.case.workload.optimizer),
    "origin": ("string", lambda row: row.record.origin.value),
    "device": ("string", lambda row: row.record.environment.place),
    "status": ("string", lambda row: row.record.status.value),
    "reason": ("string", lambda row: row.record.reason),
    "requested_bytes": ("Int64", lambda row: row.record.requested_bytes),
    "fits": ("boolean", lambda row: row.fits),
    "capacity_bytes": ("Int64", lambda row: row.fit.capacity_bytes if row.fit else None),
    "total_parameters": _measured_column("total_parameters"),
    "backbone_parameters": _measured_column("backbone_parameters"),
    "trainable_parameters": _measured_column("trainable_parameters"),
    "trainable_percent": ("Float64", lambda row: row.trainable_percent),
    "peak_allocated_bytes": _measured_column("peak_allocated_bytes"),
    "peak_reserved_bytes": _measured_column("peak_reserved_bytes"),
    **{
        f"peak_{phase}_allocated_bytes": _phase_column(phase)
        for phase in (Phase.INITIALISE, *STEP_PHASES)
    },
    # What stays once the model stands; the step's peaks include it.
    "load_allocated_bytes": ("Int64", lambda row: row.load_bytes),
    **{f"{category}_bytes": _category_column(category) for category in Category},
    "saving_percent": ("Float64", lambda row: row.saving_percent),
    "flops_per_step": _measured_column("flops_per_step"),
    "samples_per_s": ("Float64", lambda row: row.samples_per_s),
    "roofline_samples_per_s": ("Float64", lambda row: row.roofline_samples_per_s),
    "case_id": ("string", lambda row: row.record.case_id),
}


def values(group: Group) -> list[dict[str, Value]]:
    """The group's records as plain values, by the column names of `to_frame`."""
    baseline = group.baseline
    rows = [Row(record, baseline) for record in group.records]
    return [{name: get(row) for name, (_, get) in _COLUMNS.items()} for row in rows]


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record, in the order given: raw integers, null where there is no number.

    Columns end in their unit. `trainable_percent` is of `backbone_parameters`; `saving_percent`
    is of the group's full fine-tuning; the columns named after categories are at the overall
    peak; `load_allocated_bytes` is what is held once the model stands.
    """
    with collection_paused():
        keys = [group_key(record) for record in records]
        pairs = list(zip(keys, records, strict=True))
        baselines = {key: r for key, r in pairs if is_baseline(r) and r.measurement}  # the newest
        rows = [Row(record, baselines.get(key)) for key, record in pairs]
        return pd.DataFrame(
            {
                name: pd.Series([get(row) for row in rows], dtype=dtype)
                for name, (dtype, get) in _COLUMNS.items()
            }
        )


def to_csv(frame: pd.DataFrame) -> str:
    """`frame` as CSV with a header; nulls are empty."""
    return frame.to_csv(index=False, lineterminator="\n")
