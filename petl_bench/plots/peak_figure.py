"""Stacked bars of the peak by category."""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from petl_bench.palette import CATEGORIES_LIGHT, UNATTRIBUTED
from petl_bench.plots.drawing import (
    ACCENT,
    FADED,
    INK,
    WARNING,
    add_heading,
    blank_figure,
    legend_names,
    only_group,
    style_axes,
)
from petl_bench.record import Category, Record
from petl_bench.series import Bar, bars, byte_axis


def peak_by_category(records: Sequence[Record]) -> Figure:
    """Stacked bars: what each method's bytes at the peak are for, and what it saves.

    Raises:
        ValueError: `records` are of more than one group, or of none.
    """
    group = only_group(records)
    found = bars(group)
    unit, unit_name = byte_axis(max(bar.peak_bytes or 0 for bar in found))
    figure, (axes,) = blank_figure(1.55 + 0.4 * len(found), 1)
    names = legend_names([bar.by_category or {} for bar in found])
    for position, bar in enumerate(found):
        _draw_bar(axes, position, bar, names, unit)
    axes.set_yticks(range(len(found)), [_wrapped(bar.label) for bar in found])
    axes.set_ylim(len(found) - 0.45, -0.55)
    axes.set_xlim(0, 1.22 * max(bar.peak_bytes or 1 for bar in found) / unit)
    axes.set_xlabel(f"peak allocated memory ({unit_name})")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10]))
    style_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0, labelsize=10.5, labelcolor=INK)
    add_heading(figure, f"Peak training memory of {group.backbone.name}, by category", group)
    return figure


def _draw_bar(axes: Axes, position: int, bar: Bar, names: dict[Category, str], unit: int) -> None:
    left = 0.0
    for category, name in names.items() if bar.by_category else ():
        width = (bar.by_category or {}).get(category, 0) / unit
        axes.barh(
            position, width, 0.66, left, color=CATEGORIES_LIGHT[category], label=name, snap=False
        )
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
        color=INK if finished else FADED,
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
        color=ACCENT if (bar.saving_percent or 0) > 0 else WARNING,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )


def _wrapped(label: str) -> str:
    return "\n".join(textwrap.wrap(label, 26))
