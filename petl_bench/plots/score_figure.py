"""Score against memory and parameters: what a method reaches, and what it needs for that."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from petl_bench.palette import Look
from petl_bench.papers.scores import PublishedPoint, published
from petl_bench.plots import save_figure, slug
from petl_bench.plots.drawing import (
    ACCENT,
    FADED,
    MARKERS,
    add_title,
    blank_figure,
    style_axes,
)
from petl_bench.plots.pareto_figure import count_axis
from petl_bench.plots.point_labels import label_points
from petl_bench.series import Point, byte_axis
from petl_bench.tasks.boards import Axis, Board, Curve, Spot, curves, frontier, looks

_FROM_ZERO = 0.6  # where the smallest is less of the largest, the axis of memory starts at 0
_Looks = Mapping[tuple[str, ...], Look]
_Line = Sequence[tuple[float, float, Spot]]
_NAMES: dict[Axis, str] = {
    "simulated_bytes": "score_memory",
    "measured_bytes": "score_memory_measured",
    "trainable_parameters": "score_parameters",
}


def save_score_figures(boards: Sequence[Board], folder: Path) -> list[Path]:
    """Each board's figures that have data, as PNG and SVG in `folder`.

    With one board the files are named after the figure; with more, after the board as well.
    """
    written: list[Path] = []
    shared = looks(boards)
    for number, board in enumerate(boards, start=1):
        suffix = f"-{number}-{slug(board.name)}" if len(boards) > 1 else ""
        for name, figure in _drawable(board, shared):
            folder.mkdir(parents=True, exist_ok=True)
            written += save_figure(figure, folder / f"{name}{suffix}")
    return written


def _drawable(board: Board, shared: _Looks) -> Iterable[tuple[str, Figure]]:
    for axis, name in _NAMES.items():
        if curves(board, axis):
            yield name, score_figure(board, axis, shared)
    relative = relative_figure(board, published(board.printed_task), shared)
    if relative is not None:
        yield "score_published", relative


def score_figure(
    board: Board, axis: Axis = "simulated_bytes", shared: _Looks | None = None
) -> Figure:
    """Test score, mean and standard deviation over seeds, against a size.

    Curves look as in `shared`, which may be of more boards than this one.

    Raises:
        ValueError: no method has both.
    """
    drawn = curves(board, axis)
    if not drawn:
        raise ValueError("no method has a score and a size")
    unit, unit_name = 1, ""
    if axis != "trainable_parameters":
        unit, unit_name = byte_axis(round(max(spot.x for c in drawn for spot in c.spots)))
    figure, (axes,) = blank_figure(5.4, 1)
    lines = [[(s.x / unit, 100 * s.score, s) for s in curve.spots] for curve in drawn]
    _draw(axes, lines, [(shared or looks([board]))[curve.kind] for curve in drawn])
    axes.margins(0.14)
    if axis == "trainable_parameters":
        count_axis(axes, [spot.x for curve in drawn for spot in curve.spots])
        axes.set_xlabel("trainable parameters")
    else:
        sizes = [spot.x for curve in drawn for spot in curve.spots]
        if min(sizes) < _FROM_ZERO * max(sizes):
            axes.set_xlim(left=0)
        how = "simulated" if axis == "simulated_bytes" else "measured"
        axes.set_xlabel(f"peak memory of a step, {how} ({unit_name})")
    axes.set_ylabel("test score (%)")
    low, high = axes.get_ylim()
    constant = 100 * board.constant
    if low < constant < high:
        axes.axhline(constant, color=FADED, lw=1, ls=":", label="always the most frequent label")
    corners = _staircase(axes, drawn, unit)
    style_axes(axes, grid="both")
    against = "parameters" if axis == "trainable_parameters" else "memory"
    add_title(figure, f"Score against {against}, {board.name}", board.title)
    _label(figure, axes, lines, corners, constant)
    return figure


def relative_figure(
    board: Board, published: Sequence[PublishedPoint], shared: _Looks | None = None
) -> Figure | None:
    """Score and simulated memory against full fine-tuning's, published points behind ours.

    None where full fine-tuning is not there.
    """
    baseline, drawn = board.baseline, curves(board, "simulated_bytes")
    if baseline is None or baseline.simulated_bytes is None:
        return None
    figure, (axes,) = blank_figure(5.4, 1)
    near = [point for point in published if not point.far]
    axes.scatter(
        [point.memory_percent for point in near],
        [point.gain_points for point in near],
        s=56,
        facecolor="white",
        edgecolor=FADED,
        linewidth=1.3,
        label="published, on the paper's own backbone and tasks",
        zorder=2,
    )
    whole = baseline.simulated_bytes
    lines = [
        [(100 * s.x / whole, 100 * (s.score - baseline.score), s) for s in curve.spots]
        for curve in drawn
    ]
    _draw(axes, lines, [(shared or looks([board]))[curve.kind] for curve in drawn])
    axes.margins(0.14)
    axes.set_xlim(left=0)
    axes.axhline(0, color=FADED, linewidth=1, linestyle=":")
    axes.set_xlabel("peak memory, simulated (% of full fine-tuning's)")
    axes.set_ylabel("score over full fine-tuning's (points)")
    style_axes(axes, grid="both")
    add_title(figure, f"Score and memory against full fine-tuning, {board.name}", board.title)
    theirs = [Point(label=p.label, x=p.memory_percent, peak_bytes=0, best=False) for p in near]
    others = [(p.memory_percent, p.gain_points, t) for p, t in zip(near, theirs, strict=True)]
    _label(figure, axes, lines, [], 0.0, others)
    return figure


def _draw(axes: Axes, drawn: Sequence[_Line], shown: Sequence[Look]) -> None:
    """Each curve with its look."""
    for places, look in zip(drawn, shown, strict=True):
        axes.errorbar(
            [x for x, _, _ in places],
            [y for _, y, _ in places],
            yerr=[100 * (spot.spread or 0.0) for _, _, spot in places],
            marker=MARKERS[look.shape],
            linestyle=look.dash,
            markersize=7,
            color=look.colour,
            elinewidth=1.2,
            linewidth=1.3,
            capsize=3,
            zorder=3,
        )


def _staircase(axes: Axes, drawn: Sequence[Curve], unit: int) -> list[tuple[float, float]]:
    """Draw the Pareto frontier; its corners."""
    corners: list[tuple[float, float]] = []
    for size, score in frontier(drawn):
        if corners:
            corners.append((size / unit, corners[-1][1]))
        corners.append((size / unit, 100 * score))
    right = axes.get_xlim()[1]
    corners.append((right, corners[-1][1]))
    axes.plot(
        *zip(*corners, strict=True),
        color=ACCENT,
        linewidth=1.1,
        linestyle=(0, (1, 2)),
        label="Pareto frontier: nothing smaller scores as high",
        zorder=2,
    )
    axes.set_xlim(right=right)
    return corners


def _label(  # noqa: PLR0917 - what is on the page
    figure: Figure,
    axes: Axes,
    lines: Sequence[_Line],
    corners: Sequence[tuple[float, float]],
    level: float,
    others: Sequence[tuple[float, float, Point]] = (),
) -> None:
    """Name every place, clear of error bars, curves, the frontier and a level."""
    named = [
        (x, y, Point(label=spot.short, x=x, peak_bytes=0, best=spot.best))
        for line in lines
        for x, y, spot in line
    ]
    bars = [
        [(x, y - 100 * (spot.spread or 0.0)), (x, y + 100 * (spot.spread or 0.0))]
        for line in lines
        for x, y, spot in line
    ]
    joined = [[(x, y) for x, y, _ in line] for line in lines]
    level_line = [(edge, level) for edge in axes.get_xlim()]
    label_points(figure, axes, [*named, *others], corners, [*bars, *joined, level_line])
