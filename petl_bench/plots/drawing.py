"""What every figure is drawn with: paper, colours of text and grid, heading and legend."""

import textwrap
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from petl_bench.record import Category, Record
from petl_bench.series import present
from petl_bench.tables import Group, groups

INK, FADED, GRID, BAND = "#1B2430", "#5E6A78", "#E3E7EC", "#F3F5F8"
ACCENT, BEATEN, WARNING = "#2F5D8C", "#7D8996", "#B3261E"
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle": "^"}  # of palette.SHAPES
WIDTH_INCHES = 9.0
_LEGEND_KEY_INCHES, _CHARACTER_INCHES = 0.42, 0.077  # of a legend at its size of text
_THINNEST = 0.004  # of the largest peak: less than a point wide


def only_group(records: Sequence[Record]) -> Group:
    """The group that all of `records` are of.

    Raises:
        ValueError: they are of more than one, or there are none.
    """
    found = groups(records)
    if len(found) != 1:
        raise ValueError(f"a figure shows one group of records; these are of {len(found)}")
    return found[0]


def blank_figure(height_inches: float, panels: int, across: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, `panels` in rows of `across`."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # a renderer to measure text with
    down = -(-panels // across)
    return figure, [figure.add_subplot(down, across, index + 1) for index in range(panels)]


def style_axes(axes: Axes, *, grid: Literal["x", "y", "both"]) -> None:
    """Faint lines and small text, so that the data stands out."""
    axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#B8C0CA")
    axes.tick_params(colors=FADED, labelsize=9, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=FADED, fontsize=10)


def add_heading(figure: Figure, title: str, group: Group) -> None:
    """Title, the group's setting and legend, stacked at the top left."""
    place = f"{group.place[0].upper()}{group.place[1:]}"
    add_title(figure, title, f"{place}: {group.setting}")


def add_title(figure: Figure, title: str, below: str) -> None:
    """Title, a line below it and legend, stacked at the top left; the axes get the rest."""
    height = figure.get_figheight()
    setting = textwrap.wrap(below, 120)
    left, line = 0.012, 0.2 / height  # fractions of the figure
    top = 1 - 0.12 / height
    figure.text(left, top, title, va="top", fontsize=14, weight="bold", color=INK)
    top -= 0.31 / height
    figure.text(left, top, "\n".join(setting), va="top", fontsize=10, color=FADED)
    top -= line * len(setting) + 0.06 / height
    handles, labels = figure.axes[0].get_legend_handles_labels()
    shown = dict(reversed(list(zip(labels, handles, strict=True))))  # each once, first one's
    order = [name for name in dict.fromkeys(labels) if not name.startswith("_")]
    columns = _legend_columns(order)
    legend = figure.legend(
        [shown[name] for name in order],
        order,
        loc="upper left",
        bbox_to_anchor=(left, top),
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.0,
        handleheight=1.0,
        handletextpad=0.5,
        columnspacing=1.5,
        borderpad=0.0,
        borderaxespad=0.0,
    )
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    taken = 0.28  # inches, of one row
    if order:
        taken = max(taken, float(legend.get_window_extent().height) / figure.dpi + 0.1)
    engine.set(rect=(0, 0, 1, top - taken / height), w_pad=0.1, h_pad=0.06)


def _legend_columns(names: Sequence[str]) -> int:
    """How many columns of `names` have room: all in a row, or as many of the widest as fit."""
    widths = [
        _LEGEND_KEY_INCHES
        + _CHARACTER_INCHES * max([0, *(len(line) for line in name.splitlines())])
        for name in names
    ]
    if sum(widths) <= WIDTH_INCHES:
        return max(len(names), 1)
    return max(int(WIDTH_INCHES / max(widths)), 1)


def legend_names(found: Sequence[dict[Category, int]]) -> dict[Category, str]:
    """The categories present, in stacking order; those too thin to see stay out of the legend."""
    largest = max((sum(by.values()) for by in found), default=0)
    return {
        # matplotlib leaves names with an underscore in front out of legends.
        category: ("" if widest > _THINNEST * largest else "_") + category.replace("_", " ")
        for category in present(found)
        for widest in [max(by.get(category, 0) for by in found)]
    }
