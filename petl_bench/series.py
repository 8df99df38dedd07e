"""What is drawn, as plain values: bars, points and timelines of one group of records.

The figures (`plots`) and the HTML report draw the same ones, in the same colours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

from petl_bench.record import Category, Phase, Record, TimelinePoint
from petl_bench.tables import Group, Value, throughput_column, values
from petl_bench.units import GIB, MIB, format_bytes

Axis = Literal["trainable_parameters", "throughput"]

_TIMELINE_POINTS = 600  # a curve drawn with more is no sharper on a screen


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A method's peak, by category where it is known; no bytes when the case did not finish."""

    label: str
    peak_bytes: int | None
    by_category: dict[Category, int] | None
    saving_percent: float | None  # None for the baseline itself too
    note: str  # what stands at the end of the bar


@dataclass(frozen=True, kw_only=True)
class Point:
    """A method's place in a Pareto plot; `best` when no other method is better in both."""

    label: str
    x: float
    peak_bytes: int
    best: bool


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A method's step, thinned for drawing; events count from the step's first."""

    label: str
    events: tuple[int, ...]  # of each of `points`
    points: tuple[TimelinePoint, ...]
    bands: tuple[tuple[Phase, int, int], ...]  # phase, first event, first event after it
    peak_bytes: int


def bars(group: Group, phase: Phase | None = None) -> list[Bar]:
    """A bar a record, largest first; those that did not finish come last.

    Of the whole step's peak, or of that of one phase, and then without savings.
    """
    found = [
        _bar(record, row, is_baseline=record is group.baseline)
        if phase is None
        else _phase_bar(record, phase)
        for record, row in zip(group.records, values(group), strict=True)
    ]
    return sorted(found, key=lambda bar: -(bar.peak_bytes or 0))


def _bar(record: Record, row: dict[str, Value], *, is_baseline: bool) -> Bar:
    if record.measurement is None:
        return Bar(
            label=record.label,
            peak_bytes=None,
            by_category=None,
            saving_percent=None,
            note="out of memory" if record.status == "oom" else record.status.value,
        )
    peak = record.measurement.peak()
    saving = None if is_baseline else row["saving_percent"]
    size = format_bytes(peak.peak_allocated_bytes)
    return Bar(
        label=record.label,
        peak_bytes=peak.peak_allocated_bytes,
        by_category=peak.by_category,
        saving_percent=saving if isinstance(saving, float) else None,
        note=size if not isinstance(saving, float) else f"{size}  {_signed(-saving)}",
    )


def _phase_bar(record: Record, phase: Phase) -> Bar:
    memory = record.measurement.of(phase) if record.measurement else None
    return Bar(
        label=record.label,
        peak_bytes=memory.peak_allocated_bytes if memory else None,
        by_category=memory.by_category if memory else None,
        saving_percent=None,
        note=format_bytes(memory.peak_allocated_bytes) if memory else record.status.value,
    )


def _signed(share: float) -> str:
    return f"{share:+.0f} %" if round(share) else "0 %"


def points(group: Group, x: Axis) -> list[Point]:
    """A point for each record that has both numbers; the frontier is marked.

    Less peak memory is better; so are fewer trainable parameters, and more samples a second.
    """
    name = "trainable_parameters" if x == "trainable_parameters" else throughput_column(group)[0]
    found = [
        (str(row["label"]), float(row[name] or 0), int(row["peak_allocated_bytes"] or 0))
        for row in values(group)
        if row[name] is not None and row["peak_allocated_bytes"] is not None
    ]
    sign = 1 if x == "trainable_parameters" else -1
    costs = [(sign * place, size) for _, place, size in found]
    return [
        Point(label=label, x=place, peak_bytes=size, best=not _dominated(cost, costs))
        for (label, place, size), cost in zip(found, costs, strict=True)
    ]


def _dominated(cost: tuple[float, int], others: Sequence[tuple[float, int]]) -> bool:
    return any(other[0] <= cost[0] and other[1] <= cost[1] and other != cost for other in others)


def logarithmic(found: Sequence[Point], x: Axis) -> bool:
    """Whether the axis of `x` has a logarithmic scale."""
    return x == "trainable_parameters" and min(point.x for point in found) > 0


def limits(found: Sequence[Point], x: Axis) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of the axis of `x`, and of the axis of bytes, with space for labels."""
    places = [point.x for point in found]
    across = _padded(places)
    if logarithmic(found, x):
        across = (min(places) / 2.5, max(places) * 2.5)
    return across, _padded([point.peak_bytes for point in found])


def _padded(places: Sequence[float]) -> tuple[float, float]:
    """The places' range with space around it; from 0 where that costs little."""
    low, high = min(places), max(places)
    space = 0.18 * (high - low) or 0.2 * high or 1.0
    return (0.0 if low < high / 3 else low - space), high + space


def frontier(found: Sequence[Point], x: Axis) -> list[tuple[float, float]]:
    """Corners of the staircase through the best points, from least memory to most.

    Between two of them it turns at the corner that both are better than. It runs on to the edges,
    so that it shows what lies behind a single best method too.
    """
    best = sorted({(point.peak_bytes, point.x) for point in found if point.best})
    across, up = limits(found, x)
    worst = across[1] if x == "trainable_parameters" else across[0]
    corners = [(worst, float(best[0][0])), (best[0][1], float(best[0][0]))]
    for size, place in best[1:]:
        corners += [(corners[-1][0], float(size)), (place, float(size))]
    return [*corners, (corners[-1][0], up[1])]


def timelines(group: Group) -> list[Timeline]:
    """A timeline for each record that has one, in the order of the records."""
    return [
        _timeline(record.label, record.measurement.timeline)
        for record in group.records
        if record.measurement and record.measurement.timeline
    ]


def _timeline(label: str, whole: tuple[TimelinePoint, ...]) -> Timeline:
    points = _thinned(whole)
    return Timeline(
        label=label,
        events=tuple(point.event - whole[0].event for point in points),
        points=points,
        bands=tuple(_bands(whole)),
        peak_bytes=max(point.allocated_bytes for point in whole),
    )


def _thinned(timeline: tuple[TimelinePoint, ...]) -> tuple[TimelinePoint, ...]:
    """At most `_TIMELINE_POINTS` of the points: the lowest and highest of each stretch."""
    if len(timeline) <= _TIMELINE_POINTS:
        return timeline
    count = _TIMELINE_POINTS // 2
    edges = [index * len(timeline) // count for index in range(count + 1)]
    kept: dict[int, TimelinePoint] = {}
    for start, stop in pairwise(edges):
        stretch = sorted(timeline[start:stop], key=lambda point: point.allocated_bytes)
        kept |= {point.event: point for point in (stretch[0], stretch[-1])}
    return tuple(kept[event] for event in sorted(kept))


def _bands(timeline: tuple[TimelinePoint, ...]) -> Iterator[tuple[Phase, int, int]]:
    runs = [(phase, next(run).event) for phase, run in groupby(timeline, lambda at: at.phase)]
    ends = [start for _, start in runs[1:]] + [timeline[-1].event + 1]
    for (phase, start), end in zip(runs, ends, strict=True):
        yield phase, start - timeline[0].event, end - timeline[0].event


def byte_axis(largest: int) -> tuple[int, str]:
    """Bytes a tick, and its name, for an axis that reaches `largest` bytes."""
    return (GIB, "GiB") if largest >= GIB else (MIB, "MiB")


def present(found: Sequence[dict[Category, int]]) -> list[Category]:
    """The categories that any of `found` has bytes in, in the order they are stacked."""
    return [category for category in Category if any(by.get(category) for by in found)]


def throughput_label(group: Group) -> str:
    """The throughput axis's label, which says measured or estimate."""
    return throughput_column(group)[1].replace("samples/s", "throughput in samples/s")
