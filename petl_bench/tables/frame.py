"""Records as rows of plain values, for programs; a number that is absent is null."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

from petl_bench.garbage import collection_paused
from petl_bench.record import Category, Measurement, Phase, Record
from petl_bench.tables.groups import Group, GroupKeys, is_baseline

Value = str | int | float | None

STEP_PHASES = tuple(phase for phase in Phase if phase not in {Phase.LOAD, Phase.INITIALISE})

_PHASES = (Phase.INITIALISE, *STEP_PHASES)

_COLUMNS = {  # with their types
    "method": "string",
    "label": "string",
    "backbone": "string",
    "dtype": "string",
    "attention": "string",
    "batch_size": "Int64",
    "source_length_tokens": "Int64",
    "target_length_tokens": "Int64",
    "mode": "string",
    "optimizer": "string",
    "origin": "string",
    "device": "string",
    "status": "string",
    "reason": "string",
    "requested_bytes": "Int64",
    "fits": "boolean",
    "capacity_bytes": "Int64",
    "total_parameters": "Int64",
    "backbone_parameters": "Int64",
    "trainable_parameters": "Int64",
    "trainable_percent": "Float64",
    "peak_allocated_bytes": "Int64",
    "peak_reserved_bytes": "Int64",
    **{f"peak_{phase}_allocated_bytes": "Int64" for phase in _PHASES},
    "load_allocated_bytes": "Int64",
    **{f"{category}_bytes": "Int64" for category in Category},
    "saving_percent": "Float64",
    "flops_per_step": "Int64",
    "samples_per_s": "Float64",
    "roofline_samples_per_s": "Float64",
    "case_id": "string",
}


_OF_GROUP = (
    *("backbone", "dtype", "attention", "batch_size", "source_length_tokens"),
    *("target_length_tokens", "mode", "optimizer", "origin", "device"),
)
_OF_RECORD = tuple(name for name in _COLUMNS if name not in {*_OF_GROUP, "saving_percent"})
_PEAK = _OF_RECORD.index("peak_allocated_bytes")


def _of_group(record: Record) -> tuple[Value, ...]:
    """What `record` shares with its group, by the columns in `_OF_GROUP`."""
    backbone, workload = record.case.backbone, record.case.workload
    return (
        backbone.name,
        str(backbone.dtype),
        str(backbone.attention),
        workload.batch_size,
        workload.source_length_tokens,
        workload.target_length_tokens,
        str(workload.mode),
        workload.optimizer,
        str(record.origin),
        record.environment.place,
    )


def _of_record(record: Record) -> tuple[Value, ...]:
    """What is its own, by the columns in `_OF_RECORD`."""
    case, seen = record.case, record.measurement
    return (
        case.method.name,
        record.label,
        str(record.status),
        record.reason,
        record.requested_bytes,
        *(_numbers(seen, case.workload.batch_size) if seen else _NO_NUMBERS),
        record.case_id,
    )


def _numbers(seen: Measurement, batch_size: int) -> tuple[Value, ...]:
    peaks = seen.peaks()
    highest = max(peaks.values(), key=attrgetter("peak_allocated_bytes"))
    by_category = highest.by_category
    if seen.initialise is not None:
        peaks[Phase.INITIALISE] = seen.initialise
    return (
        seen.fit.refusal is None if seen.fit else None,
        seen.fit.capacity_bytes if seen.fit else None,
        seen.total_parameters,
        seen.backbone_parameters,
        seen.trainable_parameters,
        trainable_percent(seen),
        highest.peak_allocated_bytes,
        seen.peak_reserved_bytes,
        *[peaks[phase].peak_allocated_bytes if phase in peaks else None for phase in _PHASES],
        # What stays once the model stands; the step's peaks include it.
        seen.load.end_allocated_bytes,
        *[None if by_category is None else by_category.get(each, 0) for each in Category],
        seen.flops_per_step,
        batch_size / median(seen.step_times_s) if seen.step_times_s else None,
        batch_size / seen.roofline.step_s if seen.roofline else None,
    )


_NO_NUMBERS = (None,) * (len(_OF_RECORD) - 6)


def values(group: Group) -> list[dict[str, Value]]:
    """The group's records as plain values, by the column names of `to_frame`."""
    whole = peak_bytes(group.baseline)
    return [
        {
            **dict(zip(_OF_GROUP, _of_group(record), strict=True)),
            **dict(zip(_OF_RECORD, _of_record(record), strict=True)),
            "saving_percent": saving_percent(peak_bytes(record), whole),
        }
        for record in group.records
    ]


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
    of_groups: list[tuple[Value, ...]] = []
    of_records: list[tuple[Value, ...]] = []
    with collection_paused():
        for record in records:
            number = members.setdefault(key_of(record), len(members))
            if number == len(of_groups):
                of_groups.append(_of_group(record))
            row = _of_record(record)
            peak = row[_PEAK]
            assert peak is None or isinstance(peak, int)
            if peak is not None and is_baseline(record):
                wholes[number] = peak
            of_records.append(row)
            numbers.append(number)
            peaks.append(peak)
        # A baseline may come after what is compared with it.
        savings = [
            saving_percent(peak, wholes.get(number))
            for peak, number in zip(peaks, numbers, strict=True)
        ]
        arrays = {
            **{name: array.take(numbers) for name, array in _arrays(_OF_GROUP, of_groups).items()},
            **_arrays(_OF_RECORD, of_records),
            "saving_percent": _array(savings, _COLUMNS["saving_percent"]),
        }
        return pd.DataFrame({name: arrays[name] for name in _COLUMNS})


def latest_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `frame`, as `to_frame` makes it, that `petl_bench.store.latest` would keep."""
    number = frame.groupby(["case_id", "origin", "device"], sort=False).ngroup()
    kept = number[~number.duplicated(keep="last")].sort_values(kind="stable")
    return frame.loc[kept.index].reset_index(drop=True)


def _arrays(names: Sequence[str], rows: Sequence[Sequence[Value]]) -> dict[str, ExtensionArray]:
    """The columns of these names, by what each row has for them."""
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return {
        name: _array(column, _COLUMNS[name]) for name, column in zip(names, columns, strict=True)
    }


def _array(column: Sequence[Value], dtype: str) -> ExtensionArray:
    whole = dtype == "Int64" and None not in column
    entries: Any = np.array(column, np.int64) if whole else column  # the quick way, where it goes
    return pd.Series(entries, dtype=dtype).array


def trainable_percent(seen: Measurement) -> float | None:
    """Of the backbone's parameters."""
    # The LST paper's denominator: the backbone as it was, without what the method adds.
    if not seen.backbone_parameters:
        return None
    return 100 * seen.trainable_parameters / seen.backbone_parameters


def saving_percent(peak: int | None, whole: int | None) -> float | None:
    """What `peak` bytes save of the baseline's."""
    return None if peak is None or not whole else 100 * (whole - peak) / whole


def to_csv(frame: pd.DataFrame) -> str:
    """`frame` as CSV with a header; nulls are empty."""
    return frame.to_csv(index=False, lineterminator="\n")
