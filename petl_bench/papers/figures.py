"""Figures of a reproduction: our memory against published scores, bars, and sweeps."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from petl_bench.palette import look
from petl_bench.papers.reproduction import Cell, Place, Reproduction
from petl_bench.papers.schema import Drawing
from petl_bench.papers.tables import decimals_of, headers
from petl_bench.plots import save_figure
from petl_bench.plots.drawing import (
    ACCENT,
    FADED,
    INK,
    MARKERS,
    add_title,
    blank_figure,
    style_axes,
)
from petl_bench.plots.point_labels import label_points
from petl_bench.record import Origin
from petl_bench.series import Point

_PUBLISHED = "#EE7733"
_COLOURS = {Place.EMULATED: ACCENT, Place.TODAY: "#A9C4DE", Place.MEASURED: "#2A9D8F"}


def save_drawings(found: Reproduction, folder: Path) -> list[Path]:
    """Every figure that has data, as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for drawing, figure in draw_all(found):
        written += save_figure(figure, folder / drawing.name)
    return written


def draw_all(found: Reproduction) -> list[tuple[Drawing, Figure]]:
    """The paper's figures that have data."""
    drawn = []
    for drawing in found.paper.drawings:
        cells = [
            cell
            for cell in found.cells
            if (cell.table.name, cell.column.name) == (drawing.table, drawing.column)
            and any(found.value(cell, place) is not None for place in found.places)
        ]
        draw = {"scores": _scores, "bars": _bars, "sweep": _sweep}[drawing.kind]
        figure = draw(found, drawing, cells) if cells else None
        if figure is not None:
            drawn.append((drawing, figure))
    return drawn


def _scores(found: Reproduction, drawing: Drawing, cells: Sequence[Cell]) -> Figure | None:
    """Memory across, ours filled and theirs hollow; the published score up."""
    place = found.places[0]
    points = [
        (ours, cell.row.average, cell)
        for cell in cells
        if (ours := found.value(cell, place)) is not None and cell.row.average is not None
    ]
    if not points:
        return None
    figure, (axes,) = blank_figure(5.2, 1)
    for memory, score, cell in points:
        if cell.published is not None:
            axes.plot([cell.published, memory], [score, score], color=_PUBLISHED, lw=1, zorder=1)
    axes.scatter(
        [cell.published for _, _, cell in points if cell.published is not None],
        [score for _, score, cell in points if cell.published is not None],
        s=62,
        facecolor="white",
        edgecolor=_PUBLISHED,
        linewidth=1.4,
        label="their memory, as published",
        zorder=2,
    )
    axes.scatter(
        [memory for memory, _, _ in points],
        [score for _, score, _ in points],
        s=30,
        color=_COLOURS[place],
        label=f"our memory, {headers(found)[place]}",
        zorder=3,
    )
    _memory_axis(found, axes, max(memory for memory, _, _ in points))
    axes.set_ylabel(drawing.score)
    axes.margins(y=0.12)
    style_axes(axes, grid="both")
    add_title(figure, drawing.title, _setting(found))
    labelled = [
        (memory, score, Point(label=cell.row.label, x=memory, peak_bytes=0, best=False))
        for memory, score, cell in points
    ]
    apart = [
        [(cell.published, score), (memory, score)]
        for memory, score, cell in points
        if cell.published is not None
    ]
    label_points(figure, axes, labelled, [], apart)
    return figure


def _bars(found: Reproduction, drawing: Drawing, cells: Sequence[Cell]) -> Figure:
    """A group of bars a row: published, then ours from every place."""
    series: list[tuple[str, str, list[float | None]]] = []
    if any(cell.published is not None for cell in cells):
        series.append(("published", _PUBLISHED, [cell.published for cell in cells]))
    series += [
        (name, _COLOURS[place], [found.value(cell, place) for cell in cells])
        for place, name in headers(found).items()
    ]
    decimals = decimals_of(cells)
    thick = 0.8 / len(series)
    figure, (axes,) = blank_figure(1.5 + 0.2 * len(series) * len(cells) + 0.1 * len(cells), 1)
    for number, (name, colour, values) in enumerate(series):
        for position, value in enumerate(values):
            if value is not None:
                at = position + (number - (len(series) - 1) / 2) * thick
                axes.barh(at, value, 0.92 * thick, color=colour, label=name)
                axes.annotate(
                    f"{value:.{decimals if name == 'published' else 2}f}",
                    (value, at),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                    color=INK,
                )
    largest = max(value for _, _, values in series for value in values if value is not None)
    _memory_axis(found, axes, largest)
    axes.set_yticks(range(len(cells)), [cell.row.label for cell in cells])
    axes.set_ylim(len(cells) - 0.45, -0.55)
    style_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0, labelsize=10, labelcolor=INK)
    add_title(figure, drawing.title, _setting(found))
    return figure


def _sweep(found: Reproduction, drawing: Drawing, cells: Sequence[Cell]) -> Figure | None:
    """A line a series: parameters that train across, memory up."""
    place = found.places[0]
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for cell in cells:
        record, memory = found.record(cell, place), found.value(cell, place)
        if record is None or record.measurement is None or memory is None or not cell.row.series:
            continue
        seen = record.measurement
        percent = 100 * seen.trainable_parameters / seen.backbone_parameters
        lines.setdefault(cell.row.series, []).append((percent, memory, cell.row.label))
    if not lines:
        return None
    figure, (axes,) = blank_figure(5.4, 1)
    for series, (name, points) in enumerate(lines.items()):
        across, up, _ = zip(*points, strict=True)
        shown = look(series)
        axes.plot(
            across,
            up,
            color=shown.colour,
            linestyle=shown.dash,
            marker=MARKERS[shown.shape],
            markersize=6,
            linewidth=1.6,
            label=name,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.set_xlabel("updated parameters, % of the backbone's")
    axes.set_ylabel(f"training memory ({found.paper.memory_unit}), {headers(found)[place]}")
    axes.set_ylim(0, 1.12 * max(memory for points in lines.values() for _, memory, _ in points))
    axes.margins(x=0.12)
    style_axes(axes, grid="both")
    add_title(figure, drawing.title, _setting(found))
    labelled = [
        (x, y, Point(label=_short(label, name), x=x, peak_bytes=0, best=False))
        for name, points in lines.items()
        for x, y, label in points
    ]
    slopes = [[(x, y) for x, y, _ in points] for points in lines.values()]
    label_points(figure, axes, labelled, [], slopes)
    return figure


def _short(label: str, series: str) -> str:
    """`label` without the name of its line, which the legend has."""
    return label.removeprefix(f"{series}, ")


def _memory_axis(found: Reproduction, axes: Axes, largest: float) -> None:
    axes.set_xlim(0, 1.12 * largest)
    axes.set_xlabel(f"training memory, peak allocated ({found.paper.memory_unit})", color=FADED)


def _setting(found: Reproduction) -> str:
    devices = dict.fromkeys((r.origin.value, r.environment.device) for r in found.records)
    ours = ", ".join(
        f"{origin} {'on' if origin == Origin.MEASURED else 'for'} {device}"
        for origin, device in devices
    )
    return f"Published: {found.paper.source}. Ours: {ours}."
