"""Scatter of peak memory against what a method costs otherwise, with the Pareto frontier."""

import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from petl_bench.plots.drawing import (
    ACCENT,
    BEATEN,
    add_heading,
    blank_figure,
    only_group,
    style_axes,
)
from petl_bench.plots.point_labels import label_points
from petl_bench.record import Record
from petl_bench.series import (
    Axis,
    Point,
    byte_axis,
    frontier,
    limits,
    logarithmic,
    points,
    throughput_label,
)
from petl_bench.tables import Group
from petl_bench.units import format_count


def pareto(records: Sequence[Record], x: Axis = "trainable_parameters") -> Figure:
    """Scatter of peak memory against `x`, with the methods that nothing beats in both.

    Raises:
        ValueError: `records` are of more than one group, or none has both numbers.
    """
    group = only_group(records)
    found = points(group, x)
    if not found:
        raise ValueError(f"no record of {group.title} has a peak and {x}")
    unit, unit_name = byte_axis(max(point.peak_bytes for point in found))
    figure, (axes,) = blank_figure(5.2, 1)
    axes.set_ylabel(f"peak allocated memory ({unit_name})")
    _scale_x(axes, group, found, x)
    across, up = limits(found, x)
    axes.set_xlim(*across)
    axes.set_ylim(up[0] / unit, up[1] / unit)
    _scatter(axes, found, unit)
    corners = [(place, size / unit) for place, size in frontier(found, x)]
    axes.plot(
        *zip(*corners, strict=True),
        color=ACCENT,
        linewidth=1.6,
        alpha=0.55,
        label="Pareto frontier: nothing beats it in both",
        zorder=2,
    )
    style_axes(axes, grid="both")
    against = "trainable parameters" if x == "trainable_parameters" else "throughput"
    add_heading(figure, f"Peak memory against {against}, {group.backbone.name}", group)
    places = [(point.x, point.peak_bytes / unit, point) for point in found]
    label_points(figure, axes, places, corners)
    return figure


def _scatter(axes: Axes, found: Sequence[Point], unit: int) -> None:
    for best, colour, size in ((False, BEATEN, 42), (True, ACCENT, 58)):
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
    count_axis(axes, [point.x for point in found], logarithmic=logarithmic(found, x))


def count_axis(axes: Axes, places: Sequence[float], *, logarithmic: bool = True) -> None:
    """Counts across, as in "1.5 M"."""
    if logarithmic:
        wide = max(places) > 100 * min(places)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_count(round(value))))


def _short_count(count: int) -> str:
    return re.sub(r"\.0+(?= |$)", "", format_count(count))
