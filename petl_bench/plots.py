"""Figures for papers and the README: peak memory by category, Pareto fronts, a step's timeline.

A figure shows one group of records (see `tables.groups`), so measured and simulated numbers never
share one. The series are plain values (`bars`, `points`, `timelines`): the HTML report draws the
same ones. Drawn with matplotlib's Figure class and not with pyplot: nothing global is touched.
"""

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from petl_bench.record import Category, Phase, Record, TimelinePoint
from petl_bench.tables import Group, Value, groups, throughput_column, values
from petl_bench.units import GIB, MIB, format_bytes, format_count

PALETTE = {
    Category.PARAMETER: "#2F5D8C",
    Category.BUFFER: "#332288",
    Category.GRADIENT: "#2A9D8F",
    Category.OPTIMIZER_STATE: "#E9C46A",
    Category.ACTIVATION: "#EE7733",
    Category.TEMPORARY: "#56B4E9",
    Category.INPUT: "#CC3311",
    Category.WORKSPACE: "#C4C4C4",
}
"""One colour a category, in figures and report alike. Chosen so that every pair stays apart
(OKLab distance of 0.1) in normal sight, protanopia and deuteranopia (Machado et al. 2009)."""

UNATTRIBUTED = "#8A93A0"
"""Colour of bytes that no one told apart by category."""

Axis = Literal["trainable_parameters", "throughput"]
Side = Literal["left", "center", "right"]

_INK, _FADED, _GRID, _BAND = "#1B2430", "#5E6A78", "#E3E7EC", "#F3F5F8"
_ACCENT, _WARNING = "#2F5D8C", "#B3261E"
_PNG_DOTS_PER_INCH = 160
_TIMELINE_POINTS = 600  # a curve drawn with more is no sharper on a screen
_WIDTH_INCHES = 9.0
_NARROWEST_BAND_INCHES = 0.12
_THINNEST = 0.004  # of the largest peak: less than a point wide


class _Offset(NamedTuple):
    """Where a label could stand, in points from what it names."""

    side: Side  # of the label, that is at the offset
    across: float
    up: float


_SIDES: dict[Side, float] = {"left": 0.0, "center": 0.5, "right": 1.0}
_DIRECTIONS: tuple[tuple[Side, float, float], ...] = (
    ("left", 1.0, 0.0),
    ("right", -1.0, 0.0),
    ("center", 0.0, 1.5),
    ("center", 0.0, -1.5),
    ("left", 0.8, 1.0),
    ("left", 0.8, -1.0),
    ("right", -0.8, 1.0),
    ("right", -0.8, -1.0),
)
_LEADER_POINTS = 14.0  # a label farther off than this is tied to its point by a line
_OFFSETS = [
    _Offset(side, across * reach, up * reach)
    for reach in (7.0, 11.0, 16.0, 22.0, 29.0, 37.0, 46.0, 56.0, 68.0)
    for side, across, up in _DIRECTIONS
]


# --------------------------------------------------------------------------------------------
# Series: what is drawn, as plain values


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


def bars(group: Group) -> list[Bar]:
    """A bar a record, largest first; those that did not finish come last."""
    found = [
        _bar(record, row, is_baseline=record is group.baseline)
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


def _signed(share: float) -> str:
    return f"{'+' if share > 0 else ''}{share:.0f} %"


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


# --------------------------------------------------------------------------------------------
# Figures


def peak_by_category(records: Sequence[Record]) -> Figure:
    """Stacked bars: what each method's bytes at the peak are for, and what it saves.

    Raises:
        ValueError: `records` are of more than one group, or of none.
    """
    group = _only_group(records)
    found = bars(group)
    unit, unit_name = byte_axis(max(bar.peak_bytes or 0 for bar in found))
    figure, (axes,) = _figure(1.55 + 0.4 * len(found), 1)
    names = _legend_names([bar.by_category or {} for bar in found])
    for position, bar in enumerate(found):
        _draw_bar(axes, position, bar, names, unit)
    axes.set_yticks(range(len(found)), [_wrapped(bar.label) for bar in found])
    axes.set_ylim(len(found) - 0.45, -0.55)
    axes.set_xlim(0, 1.22 * max(bar.peak_bytes or 1 for bar in found) / unit)
    axes.set_xlabel(f"peak allocated memory ({unit_name})")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10]))
    _style(axes, grid="x")
    axes.tick_params(axis="y", length=0, labelsize=10.5, labelcolor=_INK)
    _heading(figure, f"Peak training memory of {group.backbone.name}, by category", group)
    return figure


def _draw_bar(axes: Axes, position: int, bar: Bar, names: dict[Category, str], unit: int) -> None:
    left = 0.0
    for category, name in names.items() if bar.by_category else ():
        width = (bar.by_category or {}).get(category, 0) / unit
        axes.barh(position, width, 0.66, left, color=PALETTE[category], label=name, snap=False)
        left += width
    if bar.by_category is None and bar.peak_bytes is not None:
        left = bar.peak_bytes / unit
        axes.barh(position, left, 0.66, color=UNATTRIBUTED, label="not told apart")
    size, _, saving = bar.note.partition("  ")
    finished = bar.peak_bytes is not None
    text = axes.annotate(
        size,
        (left, position),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=_INK if finished else _FADED,
        style="normal" if finished else "italic",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )
    axes.annotate(
        saving,
        (1, 0.5),
        xycoords=text,
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        weight="bold",
        color=_ACCENT if (bar.saving_percent or 0) > 0 else _WARNING,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )


def pareto(records: Sequence[Record], x: Axis = "trainable_parameters") -> Figure:
    """Scatter of peak memory against `x`, with the methods that nothing beats in both.

    Raises:
        ValueError: `records` are of more than one group, or none has both numbers.
    """
    group = _only_group(records)
    found = points(group, x)
    if not found:
        raise ValueError(f"no record of {group.title} has a peak and {x}")
    unit, unit_name = byte_axis(max(point.peak_bytes for point in found))
    figure, (axes,) = _figure(5.2, 1)
    axes.set_ylabel(f"peak allocated memory ({unit_name})")
    _scale_x(axes, group, found, x)
    across, up = limits(found, x)
    axes.set_xlim(*across)
    axes.set_ylim(up[0] / unit, up[1] / unit)
    _scatter(axes, found, unit)
    corners = [(place, size / unit) for place, size in frontier(found, x)]
    axes.plot(
        *zip(*corners, strict=True),
        color=_ACCENT,
        linewidth=1.6,
        alpha=0.55,
        label="Pareto frontier: nothing beats it in both",
        zorder=2,
    )
    _style(axes, grid="both")
    against = "trainable parameters" if x == "trainable_parameters" else "throughput"
    _heading(figure, f"Peak memory against {against}, {group.backbone.name}", group)
    places = [(point.x, point.peak_bytes / unit, point) for point in found]
    _label_points(figure, axes, places, corners)
    return figure


def _scatter(axes: Axes, found: Sequence[Point], unit: int) -> None:
    for best, colour, size in ((False, "#A9B2BD", 42), (True, _ACCENT, 58)):
        chosen = [point for point in found if point.best == best]
        axes.scatter(
            [point.x for point in chosen],
            [point.peak_bytes / unit for point in chosen],
            s=size,
            color=colour,
            zorder=3,
            edgecolor="white",
            linewidth=0.8,
        )


def _scale_x(axes: Axes, group: Group, found: Sequence[Point], x: Axis) -> None:
    if x == "throughput":
        axes.set_xlabel(throughput_label(group))
        return
    axes.set_xlabel("trainable parameters")
    if logarithmic(found, x):
        places = [point.x for point in found]
        wide = max(places) > 100 * min(places)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_count(round(value))))


def _short_count(count: int) -> str:
    return re.sub(r"\.0+(?= |$)", "", format_count(count))


def _label_points(
    figure: Figure,
    axes: Axes,
    found: Sequence[tuple[float, float, Point]],
    corners: Sequence[tuple[float, float]],
) -> None:
    """Name every point beside it, where the name covers no point, no line and no other name."""
    figure.draw_without_rendering()  # lays out, so that places on the page are known
    figure.set_layout_engine("none")
    taken = [*(_around(axes, [(x, y)], 6.0) for x, y, _ in found)]
    taken += [_around(axes, ends, 1.5) for ends in pairwise(corners)]
    for x, y, point in sorted(found, key=lambda each: (not each[2].best, -each[1], each[0])):
        taken.append(_place_label(axes, (x, y), point, taken))


def _around(axes: Axes, places: Sequence[tuple[float, float]], margin: float) -> Bbox:
    """The room in pixels that one place, or a line between two, takes on the page."""
    return (
        Bbox.null()
        .union([Bbox([at, at]) for at in axes.transData.transform(places)])
        .padded(margin)
    )


def _place_label(
    axes: Axes, place: tuple[float, float], point: Point, taken: Sequence[Bbox]
) -> Bbox:
    """Write the label at the cheapest of the offsets tried; returns the room that it takes."""
    label = axes.annotate(
        point.label,
        place,
        xytext=(0, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        color=_INK if point.best else _FADED,
        weight="bold" if point.best else "normal",
        zorder=4,
        arrowprops={"arrowstyle": "-", "color": "#A9B2BD", "linewidth": 0.7, "shrinkB": 3},
    )
    size = Text.get_window_extent(label)  # Annotation's own would count the leader line as well
    pixels_per_point = axes.figure.dpi / 72
    across, up = axes.transData.transform(place)

    def room(offset: _Offset) -> Bbox:
        left = across + offset.across * pixels_per_point - _SIDES[offset.side] * size.width
        bottom = up + offset.up * pixels_per_point - size.height / 2
        return Bbox.from_bounds(left, bottom, size.width, size.height).padded(1.5)

    best = min(_OFFSETS, key=lambda offset: _cost(room(offset), offset, axes.bbox, taken))
    label.set(ha=best.side, position=(best.across, best.up))
    assert label.arrow_patch is not None
    label.arrow_patch.set_visible(max(abs(best.across), abs(best.up)) > _LEADER_POINTS)
    return room(best)


def _cost(room: Bbox, offset: _Offset, inside: Bbox, taken: Sequence[Bbox]) -> float:
    """What is covered, in square pixels, then how far the label is from its point."""
    covered = sum(_shared(room, other) for other in taken)
    outside = room.width * room.height - _shared(room, inside)
    return 10 * covered + 50 * outside + abs(offset.across) + abs(offset.up)


def _shared(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else float(shared.width * shared.height)


def timeline(records: Sequence[Record]) -> Figure:
    """Small multiples: allocated memory over the step by category, one panel a method.

    Raises:
        ValueError: `records` are of more than one group, or none has a timeline.
    """
    group = _only_group(records)
    found = timelines(group)
    if not found:
        raise ValueError(f"no record of {group.title} has a timeline")
    largest = max(each.peak_bytes for each in found)
    unit, unit_name = byte_axis(largest)
    across = min(len(found), 2 if len(found) <= 4 else 3)  # noqa: PLR2004
    down = -(-len(found) // across)
    figure, panels = _figure(1.4 + 2.1 * down, len(found), across)
    names = _legend_names([point.by_category for each in found for point in each.points])
    for axes, each in zip(panels, found, strict=True):
        axes.set_ylim(0, 1.16 * largest / unit)
        _draw_timeline(axes, each, names, unit, _WIDTH_INCHES / across)
    for index, axes in enumerate(panels):
        axes.tick_params(labelleft=index % across == 0)
        if index % across == 0:
            axes.set_ylabel(f"allocated ({unit_name})")
    figure.supxlabel("allocations and frees since the step began", fontsize=10, color=_FADED)
    _heading(figure, f"One training step of {group.backbone.name}, allocation by allocation", group)
    return figure


def _draw_timeline(
    axes: Axes, found: Timeline, names: dict[Category, str], unit: int, width_inches: float
) -> None:
    layers = [
        [point.by_category.get(category, 0) / unit for point in found.points] for category in names
    ]
    _draw_bands(axes, found, width_inches)
    axes.stackplot(
        found.events,
        *layers,
        colors=[PALETTE[category] for category in names],
        labels=list(names.values()),
        step="post",
        linewidth=0,
        zorder=2,
    )
    axes.set_xlim(0, max(found.events[-1], 1))
    _style(axes, grid="y")
    label = textwrap.shorten(found.label, 26, placeholder="...")
    axes.set_title(
        f"{label}   {format_bytes(found.peak_bytes)}",
        loc="left",
        fontsize=10,
        color=_INK,
    )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))


def _draw_bands(axes: Axes, found: Timeline, width_inches: float) -> None:
    stop = found.bands[-1][2]
    for index, (phase, first, end) in enumerate(found.bands):
        axes.axvspan(first, end, color=_BAND if index % 2 == 0 else "white", zorder=0, linewidth=0)
        name = phase.replace("_", " ")
        room = 0.8 * width_inches * (end - first) / stop  # inches, roughly
        if room < _NARROWEST_BAND_INCHES:  # too narrow for a name, even a turned one
            continue
        axes.annotate(
            name,
            ((first + end) / 2, 0.97),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            fontsize=8,
            color=_FADED,
            rotation=0 if room > 0.075 * len(name) else 90,
        )


# --------------------------------------------------------------------------------------------
# Files


def save_figures(records: Sequence[Record], folder: Path) -> list[Path]:
    """Every figure that has data, as PNG and SVG in `folder`; the same records, the same bytes.

    With one group the files are named after the plot; with more, after the group as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = groups(records)
    written: list[Path] = []
    for number, group in enumerate(found, start=1):
        suffix = f"-{number}-{_slug(group.title)}" if len(found) > 1 else ""
        for name, draw in _drawable(group):
            written += _save(draw(group.records), folder / f"{name}{suffix}")
    return written


def _drawable(group: Group) -> Iterator[tuple[str, Callable[[Sequence[Record]], Figure]]]:
    if any(bar.peak_bytes for bar in bars(group)):
        yield "peak_by_category", peak_by_category
    for axis in get_args(Axis):
        if points(group, axis):
            yield f"pareto_{axis}", partial(pareto, x=axis)
    if timelines(group):
        yield "timeline", timeline


def _save(figure: Figure, stem: Path) -> list[Path]:
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    figure.savefig(png, dpi=_PNG_DOTS_PER_INCH, metadata={"Software": None})
    with rc_context({"svg.hashsalt": "petl-bench"}):  # else element ids are drawn at random
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")


# --------------------------------------------------------------------------------------------
# Drawing, shared


def _only_group(records: Sequence[Record]) -> Group:
    found = groups(records)
    if len(found) != 1:
        raise ValueError(f"a figure shows one group of records; these are of {len(found)}")
    return found[0]


def _figure(height_inches: float, panels: int, across: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # a renderer to measure text with
    down = -(-panels // across)
    return figure, [figure.add_subplot(down, across, index + 1) for index in range(panels)]


def _style(axes: Axes, *, grid: Literal["x", "y", "both"]) -> None:
    axes.grid(visible=True, axis=grid, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#B8C0CA")
    axes.tick_params(colors=_FADED, labelsize=9, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_FADED, fontsize=10)


def _heading(figure: Figure, title: str, group: Group) -> None:
    """Title, setting and legend, stacked at the top left; the axes get what is below them."""
    height = figure.get_figheight()
    place = f"{group.place[0].upper()}{group.place[1:]}"
    setting = textwrap.wrap(f"{place}: {group.setting}", 120)
    left, line = 0.012, 0.2 / height  # fractions of the figure
    top = 1 - 0.12 / height
    figure.text(left, top, title, va="top", fontsize=14, weight="bold", color=_INK)
    top -= 0.31 / height
    figure.text(left, top, "\n".join(setting), va="top", fontsize=10, color=_FADED)
    top -= line * len(setting) + 0.06 / height
    handles, labels = figure.axes[0].get_legend_handles_labels()
    shown = dict(reversed(list(zip(labels, handles, strict=True))))  # each once, first one's
    order = [name for name in dict.fromkeys(labels) if not name.startswith("_")]
    figure.legend(
        [shown[name] for name in order],
        order,
        loc="upper left",
        bbox_to_anchor=(left, top),
        ncols=max(len(order), 1),
        frameon=False,
        fontsize=9.5,
        labelcolor=_INK,
        handlelength=1.0,
        handleheight=1.0,
        handletextpad=0.5,
        columnspacing=1.5,
        borderpad=0.0,
        borderaxespad=0.0,
    )
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, top - 0.28 / height), w_pad=0.1, h_pad=0.06)


def _legend_names(found: Sequence[dict[Category, int]]) -> dict[Category, str]:
    """The categories present, in stacking order; those too thin to see stay out of the legend."""
    largest = max((sum(by.values()) for by in found), default=0)
    return {
        # matplotlib leaves names with an underscore in front out of legends.
        category: ("" if widest > _THINNEST * largest else "_") + category.replace("_", " ")
        for category in present(found)
        for widest in [max(by.get(category, 0) for by in found)]
    }


def _wrapped(label: str) -> str:
    return "\n".join(textwrap.wrap(label, 26))
