"""What fits: how much of each method into each memory, and memory along the axis."""

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from petl_bench.fit.answers import Curve, Frontier
from petl_bench.fit.axis import Vary
from petl_bench.fit.tables import title
from petl_bench.palette import look
from petl_bench.plots import save_figure
from petl_bench.plots.drawing import (
    FADED,
    INK,
    MARKERS,
    WARNING,
    add_title,
    blank_figure,
    style_axes,
)
from petl_bench.series import byte_axis
from petl_bench.units import format_bytes

_SHADES = ("#BBD3EA", "#7FA9D1", "#4A7FB3", "#2F5D8C", "#1B3A5C")  # more memory, darker
_AXIS = {Vary.BATCH: "batch size", Vary.LENGTH: "source tokens", Vary.BACKBONE: "backbone"}


def save_fit_figures(frontier: Frontier, folder: Path) -> list[Path]:
    """Both figures as PNG and SVG in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = save_figure(frontier_figure(frontier), folder / "fit_frontier")
    return written + save_figure(memory_figure(frontier), folder / "fit_memory")


def frontier_figure(frontier: Frontier) -> Figure:
    """Bars: the largest batch, length or backbone of each method, a shade a memory."""
    curves = [curve for curve in frontier.curves if curve.reason is None]
    sizes = sorted(frontier.memory_bytes)
    height = 0.22 * len(sizes) + 0.14
    figure, (axes,) = blank_figure(1.7 + height * len(curves), 1)
    longest = max((_position(c, m) for c in curves for m in sizes), default=0) or 1
    for row, curve in enumerate(curves):
        for column, memory in enumerate(sizes):
            place = row + (column - (len(sizes) - 1) / 2) * 0.8 / len(sizes)
            shade = _SHADES[(column + len(_SHADES) - len(sizes)) % len(_SHADES)]
            position = _position(curve, memory)
            axes.barh(
                place,
                position,
                0.74 / len(sizes),
                color=shade,
                label=format_bytes(memory) if row == 0 else None,
            )
            axes.annotate(
                _text(frontier, curve, memory),
                (position, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=INK if position else FADED,
            )
    axes.set_yticks(range(len(curves)), [_wrapped(curve.label) for curve in curves])
    axes.set_ylim(len(curves) - 0.45, -0.55)
    axes.set_xlim(0, 1.14 * longest)
    _label_axis(frontier, axes)
    style_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0, labelsize=10.5, labelcolor=INK)
    add_title(figure, f"Largest {_AXIS[frontier.vary]} that fits", _setting(frontier))
    return figure


def memory_figure(frontier: Frontier) -> Figure:
    """Lines: reserved memory along the axis by method, and what each memory has for tensors."""
    curves = [curve for curve in frontier.curves if curve.points]
    rooms = sorted({answer.capacity_bytes for answer in frontier.answers})
    shown = 1.12 * max(rooms, default=1)
    unit, unit_name = byte_axis(int(shown))
    figure, (axes,) = blank_figure(5.2, 1)
    ends = [1]
    for series, curve in enumerate(curves):
        shown_as = look(series)
        places = [point.position for point in curve.points]
        inside = [p.position for p in curve.points if p.peak_reserved_bytes <= shown]
        ends += inside
        axes.plot(
            places,
            [point.peak_reserved_bytes / unit for point in curve.points],
            color=shown_as.colour,
            linestyle=shown_as.dash,
            linewidth=1.8,
            marker=MARKERS[shown_as.shape],
            markersize=4,
            label=_wrapped(curve.label),
            zorder=3,
        )
    for room in rooms:
        axes.axhline(room / unit, color=WARNING, linewidth=1, linestyle=":", zorder=2)
    memories = {answer.capacity_bytes: answer.memory_bytes for answer in frontier.answers}
    for room in rooms:
        axes.annotate(
            f"{format_bytes(memories[room])} card",
            (1, room / unit),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),  # beside the axes: the best method's line ends in the last corner
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=WARNING,
        )
    axes.set_ylim(0, shown / unit)
    axes.set_xlim(0, 1.05 * max(ends))
    _label_axis(frontier, axes)
    axes.set_ylabel(f"peak reserved memory ({unit_name})")
    style_axes(axes, grid="both")
    add_title(figure, f"Memory against {_AXIS[frontier.vary]}", _setting(frontier))
    return figure


def _position(curve: Curve, memory_bytes: int) -> int:
    """Where along the axis the answer is; 0 if nothing fits."""
    held = next(a.largest for a in curve.answers if a.memory_bytes == memory_bytes)
    if held is None:
        return 0
    return next(
        (point.position for point in curve.points if point.place == held.place),
        int(held.place) if held.place.isdecimal() else 0,
    )


def _text(frontier: Frontier, curve: Curve, memory_bytes: int) -> str:
    answer = next(a for a in curve.answers if a.memory_bytes == memory_bytes)
    if answer.largest is None:
        return "none"
    place = answer.largest.place
    if frontier.vary is Vary.BACKBONE:
        return place
    return f"{'' if answer.overflow else '≥ '}{int(place):,}"


def _label_axis(frontier: Frontier, axes: Axes) -> None:
    axes.set_xlabel(_AXIS[frontier.vary])
    if frontier.vary is Vary.BACKBONE:
        axes.set_xticks(range(1, len(frontier.places) + 1), frontier.places)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _setting(frontier: Frontier) -> str:
    return title(frontier).partition(": ")[2]


def _wrapped(label: str) -> str:
    return "\n".join(textwrap.wrap(label, 26))
