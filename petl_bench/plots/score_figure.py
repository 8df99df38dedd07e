"""Score against memory: what a method reaches, and what it needs for that."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from petl_bench.plots import save_figure
from petl_bench.plots.drawing import ACCENT, FADED, add_title, blank_figure, style_axes
from petl_bench.plots.point_labels import label_points
from petl_bench.series import Point, byte_axis
from petl_bench.tasks.metrics import score
from petl_bench.tasks.record import TrainingRecord
from petl_bench.tasks.tables import Row, rows, title


def save_score_figure(records: Sequence[TrainingRecord], folder: Path) -> list[Path]:
    """The figure as PNG and SVG in `folder`; none where no record has score and memory."""
    if not _placed(records):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    return save_figure(score_figure(records), folder / "score_memory")


def score_figure(records: Sequence[TrainingRecord]) -> Figure:
    """Test score, mean and standard deviation over seeds, against simulated peak memory.

    Raises:
        ValueError: no record has both.
    """
    placed = _placed(records)
    if not placed:
        raise ValueError("no record has a score and a simulated peak")
    unit, unit_name = byte_axis(max(size for _, size in placed))
    figure, (axes,) = blank_figure(5.2, 1)
    places = []
    for row, size in placed:
        height = 100 * fmean(row.scores)
        axes.errorbar(
            size / unit,
            height,
            yerr=100 * (row.spread or 0.0),
            fmt="o",
            markersize=7,
            color=ACCENT,
            elinewidth=1.2,
            capsize=3,
            zorder=3,
        )
        point = Point(label=row.label, x=size / unit, peak_bytes=size, best=True)
        places.append((size / unit, height, point))
    constant = 100 * score(records[0].constant)
    axes.axhline(
        constant, color=FADED, linewidth=1, linestyle=":", label="always the most frequent label"
    )
    axes.set_xlabel(f"peak allocated memory, simulated ({unit_name})")
    axes.set_ylabel("test score (%)")
    axes.margins(0.12)
    style_axes(axes, grid="both")
    add_title(figure, f"Score against memory, {records[0].trial.task}", title(records))
    label_points(figure, axes, places, [(edge, constant) for edge in axes.get_xlim()])
    return figure


def _placed(records: Sequence[TrainingRecord]) -> list[tuple[Row, int]]:
    """The rows with a score and a simulated peak, and that peak."""
    found = ((row, row.simulated_bytes) for row in rows(records) if row.done)
    return [(row, size) for row, size in found if size is not None]
