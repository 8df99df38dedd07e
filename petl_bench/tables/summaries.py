"""Groups of records as tables: what each method costs, by phase, by category, side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from petl_bench.case import Mode
from petl_bench.record import Category, Fit, Origin, Phase, Record
from petl_bench.tables.frame import Value, values
from petl_bench.tables.groups import Group, distinct_names, groups, peaks_by_label
from petl_bench.tables.table import ABSENT, Cell, Column, Table
from petl_bench.units import format_bytes, format_count

_PHASES_OF = {
    Mode.TRAINING: (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER_STEP),
    Mode.INFERENCE: (Phase.FORWARD,),
    Mode.GENERATE: (Phase.PREFILL, Phase.DECODE),
}


@dataclass(frozen=True)
class _Shown:
    """A column of numbers: which value, under what header, as which text."""

    name: str
    header: str
    text: Callable[[int], str] | Callable[[float], str]


def percent(share: float, decimals: int = 1) -> str:
    """`share` of a hundred, with as many decimals as its column has.

    >>> percent(58.36), percent(0.0342), percent(0.0), percent(1.744, decimals=2)
    ('58.4 %', '< 0.1 %', '0.0 %', '1.74 %')
    """
    least = 10**-decimals
    if 0 < abs(share) < least / 2:
        sign = "<" if share > 0 else "> -"
        return f"{sign}{' ' if share > 0 else ''}{least:.{decimals}f} %"
    return f"{share:.{decimals}f} %"


def share_of_parameters(share: float) -> str:
    """`share` of a hundred as the LST paper prints shares of parameters, such as "0.03 %"."""
    return percent(share, decimals=2)


def _rate(samples_per_s: float) -> str:
    return f"{samples_per_s:,.0f}" if samples_per_s >= 100 else f"{samples_per_s:.3g}"  # noqa: PLR2004


def throughput_column(group: Group) -> tuple[str, str]:
    """Name of the group's throughput value, and the header that says what kind it is."""
    if group.origin is Origin.MEASURED:
        return "samples_per_s", "samples/s (measured)"
    return "roofline_samples_per_s", "samples/s (roofline estimate)"


def summary(records: Sequence[Record], *, phases: bool = False) -> list[Table]:
    """One table a group: what each method costs; with `phases`, the peak of each phase too."""
    return [_summary_table(group, phases=phases) for group in groups(records)]


def phase_peaks(records: Sequence[Record]) -> list[Table]:
    """One table a group, of what finished: held once loaded, then the peak of each phase."""
    loaded = _Shown("load_allocated_bytes", "after load", format_bytes)
    caption = "Highest allocated memory within each phase, over all measured steps."
    return [
        _table(group, [loaded, *_shown_phases(group)], caption, failures=False)
        for group in groups(records)
    ]


def category_peaks(records: Sequence[Record]) -> list[Table]:
    """One table a group, of what finished: what the bytes at the overall peak are for."""
    shown = [
        _Shown(f"{category}_bytes", category.replace("_", " "), format_bytes)
        for category in Category
    ]
    shown += [_Shown("peak_allocated_bytes", "peak allocated", format_bytes)]
    caption = "Allocated memory at the highest moment of the step, by what it is for."
    return [_table(group, shown, caption, failures=False) for group in groups(records)]


def across_workloads(records: Sequence[Record]) -> list[Table]:
    """One table a backbone and place: what a run over all workloads needs, the largest's peak."""
    kinds: dict[str, list[Group]] = {}
    for group in groups(records):
        first = group.records[0]
        question = first.case.backbone.model_dump_json()
        kinds.setdefault(f"{first.origin} {group.place} {question}", []).append(group)
    return [_across(members) for members in kinds.values()]


def _across(members: Sequence[Group]) -> Table:
    first = members[0]
    largest: dict[str, tuple[int, Group]] = {}
    for group in members:
        for record in group.records:
            if record.measurement is not None:
                found = record.measurement.peak_allocated_bytes, group
                largest[record.label] = max(largest.get(record.label, found), found, key=_first)
    return Table(
        title=f"{first.backbone.name}, the largest of {len(members)} workloads: {first.place}",
        caption="One run that trains on them in turn needs what the largest needs.",
        columns=(
            Column(header="method", align="left"),
            Column(header="peak allocated", align="right"),
            Column(header="set by", align="left"),
        ),
        rows=tuple(
            (
                Cell(text=label),
                Cell(text=format_bytes(peak), number=peak),
                Cell(text=group.setting),
            )
            for label, (peak, group) in largest.items()
        ),
    )


def _first(found: tuple[int, Group]) -> int:
    return found[0]


def side_by_side(records: Sequence[Record]) -> Table | None:
    """Peak allocated of every method in every group, beside the first one's; None for one group."""
    found = groups(records)
    if len(found) < 2:  # noqa: PLR2004
        return None
    peaks = [peaks_by_label(group) for group in found]
    labels = dict.fromkeys(label for by_label in peaks for label in by_label)
    return Table(
        title="Runs side by side",
        caption="Peak allocated; the percentage is of the first column's.",
        columns=(
            Column(header="method", align="left"),
            *(Column(header=name, align="right") for name in distinct_names(found)),
        ),
        rows=tuple(
            (Cell(text=label), *_beside_the_first([by_label.get(label) for by_label in peaks]))
            for label in labels
        ),
    )


def one_by_one(records: Sequence[Record]) -> Table:
    """A row a group: what saves most and how much, and the peak allocated of every method."""
    found = groups(records)
    labels = dict.fromkeys(record.label for group in found for record in group.records)
    numbers = "least peak", "saving", *labels
    return Table(
        title=f"{len(found)} runs",
        caption="Peak allocated of each method; saving: of the least, against full fine-tuning.",
        columns=(
            Column(header="run", align="left"),
            Column(header="least", align="left"),
            *(Column(header=header, align="right") for header in numbers),
        ),
        rows=tuple(
            (Cell(text=name), *_least(group), *_sizes(peaks_by_label(group), labels))
            for group, name in zip(found, distinct_names(found), strict=True)
        ),
    )


def _least(group: Group) -> tuple[Cell, Cell, Cell]:
    """The method with the least peak, that peak, and what it saves."""
    finished = [row for row in values(group) if row["peak_allocated_bytes"] is not None]
    if not finished:
        return Cell(text=ABSENT), Cell(text=ABSENT), Cell(text=ABSENT)
    least = min(finished, key=_peak_of)
    size, saving = _peak_of(least), least["saving_percent"]
    return (
        Cell(text=str(least["label"])),
        Cell(text=format_bytes(size), number=size),
        Cell(text=percent(saving), number=saving)
        if isinstance(saving, float)
        else Cell(text=ABSENT),
    )


def _peak_of(row: dict[str, Value]) -> int:
    return int(row["peak_allocated_bytes"] or 0)


def _sizes(by_label: Mapping[str, int | None], labels: Iterable[str]) -> Iterable[Cell]:
    for size in map(by_label.get, labels):
        yield Cell.of(size, format_bytes)


def _beside_the_first(sizes: Sequence[int | None]) -> Iterable[Cell]:
    first = sizes[0]
    for place, size in enumerate(sizes):
        if size is None:
            yield Cell(text=ABSENT)
            continue
        change = f" ({_signed(100 * (size - first) / first)})" if place and first else ""
        yield Cell(text=f"{format_bytes(size)}{change}", number=size)


def _signed(share: float) -> str:
    """`share` of a hundred with its sign, which zero has none of."""
    return percent(0.0) if round(share, 1) == 0 else f"{share:+.1f} %"


def _shown_phases(group: Group) -> list[_Shown]:
    phases = list(_PHASES_OF[group.workload.mode])
    if any(record.measurement and record.measurement.initialise for record in group.records):
        phases.insert(0, Phase.INITIALISE)
    return [
        _Shown(f"peak_{phase}_allocated_bytes", phase.replace("_", " "), format_bytes)
        for phase in phases
    ]


def _summary_table(group: Group, *, phases: bool) -> Table:
    shown = [
        _Shown("trainable_parameters", "trainable", format_count),
        _Shown("trainable_percent", "% of backbone", share_of_parameters),
        _Shown("peak_allocated_bytes", "peak allocated", format_bytes),
        _Shown("peak_reserved_bytes", "peak reserved", format_bytes),
        _Shown("saving_percent", "saving", percent),
        *(_shown_phases(group) if phases else []),
        _Shown("flops_per_step", "FLOPs per step", format_count),
        _Shown(*throughput_column(group), _rate),
    ]
    return _table(group, shown, _summary_caption(group), failures=True)


def _summary_caption(group: Group) -> str:
    baseline = group.baseline
    if baseline is None or baseline.measurement is None:
        sentences = ["No saving is given: full fine-tuning has no numbers here."]
    else:
        size = format_bytes(baseline.measurement.peak_allocated_bytes)
        sentences = [f"Saving: peak allocated, against {size} of full fine-tuning."]
    if group.origin is Origin.SIMULATED:
        sentences.append(
            "Memory is simulated; samples/s is a roofline estimate, not a measurement."
        )
    return " ".join([*sentences, *_beyond_the_card(group)])


def _beyond_the_card(group: Group) -> list[str]:
    """Sentences about the cases that a simulation let grow larger than their card, or nearly."""
    beyond, tight, room = [], [], ""
    for record in group.records:
        seen, total_bytes = record.measurement, record.environment.device_total_bytes
        if seen is None:
            continue
        if seen.fit is not None:
            room = f"{format_bytes(seen.fit.capacity_bytes)} that {group.device} has for tensors"
            if seen.fit.refusal is not None:
                beyond.append(record.label)
            elif seen.peak_reserved_bytes > seen.fit.capacity_bytes:
                tight.append(record.label)
        elif total_bytes is not None and seen.peak_reserved_bytes > total_bytes:
            room = f"{format_bytes(total_bytes)} of {group.device}"
            beyond.append(record.label)
    sentences = []
    if beyond:
        verb = "does" if len(beyond) == 1 else "do"
        sentences.append(f"{_listed(beyond)} {verb} not fit into the {room}.")
    if tight:
        verb = "fits" if len(tight) == 1 else "fit"
        sentences.append(
            f"{_listed(tight)} {verb} into the {room} only by giving cached memory back."
        )
    return sentences


def _listed(labels: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))


def _table(group: Group, shown: Sequence[_Shown], caption: str, *, failures: bool) -> Table:
    """A row a record; with `failures`, those without numbers too, and how each case ended."""
    status = (Column(header="status", align="left"),) if failures else ()
    columns = (
        Column(header="method", align="left"),
        *(Column(header=each.header, align="right") for each in shown),
        *status,
    )
    rows = tuple(
        (
            Cell(text=record.label),
            *(_number_cell(found[each.name], each) for each in shown),
            *(Cell(text=status_text(record), status=record.ending) for _ in status),
        )
        for record, found in zip(group.records, values(group), strict=True)
        if failures or record.measurement
    )
    return Table(title=group.title, caption=caption, columns=columns, rows=rows)


def _number_cell(value: Value, shown: _Shown) -> Cell:
    if value is None or isinstance(value, str):
        return Cell(text=ABSENT)
    return Cell(text=shown.text(value), number=value)  # type: ignore[arg-type]


def status_text(record: Record) -> str:
    """How the case ended, with the reason and the request that did not fit."""
    if record.measurement is not None:
        fit = record.measurement.fit
        return f"too large: {_refusal_text(fit)}" if fit and fit.refusal else record.status.value
    asked = record.requested_bytes
    request = "" if asked is None else f" (requested {format_bytes(asked)})"
    return f"{record.status}: {record.reason}{request}"


def _refusal_text(fit: Fit) -> str:
    refused = fit.refusal
    assert refused is not None
    made_by = "" if refused.operator.startswith("(") else f", {refused.operator}"
    return (
        f"no room in {refused.phase.replace('_', ' ')} for"
        f" {format_bytes(refused.requested_bytes)} ({refused.category.replace('_', ' ')}{made_by})"
        f" with {format_bytes(refused.reserved_bytes)} of {format_bytes(fit.capacity_bytes)}"
        " reserved"
    )
