"""Small multiples of a step's timeline."""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from petl_bench.palette import CATEGORIES_LIGHT
from petl_bench.plots.drawing import (
    BAND,
    FADED,
    INK,
    WIDTH_INCHES,
    add_heading,
    blank_figure,
    legend_names,
    only_group,
    style_axes,
)
from petl_bench.record import Category, Record
from petl_bench.series import Timeline, byte_axis, timelines
from petl_bench.units import format_bytes

_NARROWEST_BAND_INCHES = 0.12


def timeline(records: Sequence[Record]) -> Figure:
    """Small multiples: allocated memory over the step by category, one panel a method.

    Raises:
        ValueError: `records` are of more than one group, or none has a timeline.
    """
    group = only_group(records)
    found = timelines(group)
    if not found:
        raise ValueError(f"no record of {group.title} has a timeline")
    largest = max(each.peak_bytes for each in found)
    unit, unit_name = byte_axis(largest)
    across = min(len(found), 2 if len(found) <= 4 else 3)  # noqa: PLR2004
    down = -(-len(found) // across)
    figure, panels = blank_figure(1.4 + 2.1 * down, len(found), across)
    names = legend_names([point.by_category for each in found for point in each.points])
    for axes, each in zip(panels, found, strict=True):
        axes.set_ylim(0, 1.16 * largest / unit)
        _draw_timeline(axes, each, names, unit, WIDTH_INCHES / across)
    for index, axes in enumerate(panels):
        axes.tick_params(labelleft=index % across == 0)
        if index % across == 0:
            axes.set_ylabel(f"allocated ({unit_name})")
    figure.supxlabel("allocations and frees since the step began", fontsize=10, color=FADED)
    add_heading(
        figure, f"One training step of {group.backbone.name}, allocation by allocation", group
    )
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
        colors=[CATEGORIES_LIGHT[category] for category in names],
        labels=list(names.values()),
        step="post",
        linewidth=0,
        zorder=2,
    )
    axes.set_xlim(0, max(found.events[-1], 1))
    style_axes(axes, grid="y")
    label = textwrap.shorten(found.label, 26, placeholder="...")
    axes.set_title(
        f"{label}   {format_bytes(found.peak_bytes)}",
        loc="left",
        fontsize=10,
        color=INK,
    )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))


def _draw_bands(axes: Axes, found: Timeline, width_inches: float) -> None:
    stop = found.bands[-1][2]
    for index, (phase, first, end) in enumerate(found.bands):
        axes.axvspan(first, end, color=BAND if index % 2 == 0 else "white", zorder=0, linewidth=0)
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
            color=FADED,
            rotation=0 if room > 0.075 * len(name) else 90,
        )
