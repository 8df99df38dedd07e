"""Figures for papers and the README: peak memory by category, Pareto fronts, a step's timeline.

A figure shows one group of records (see `tables.groups`), so measured and simulated numbers never
share one. Drawn with matplotlib's Figure class and not with pyplot: nothing global is touched.

peak_figure      what each method's bytes at the peak are for
pareto_figure    peak against parameters or throughput; point_labels names its points
timeline_figure  a step, allocation by allocation
fit_figures      what fits into so many bytes
score_figure     score against memory, parameters, and what was published
drawing          what they share
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from matplotlib import rc_context
from matplotlib.figure import Figure

from petl_bench.plots.pareto_figure import pareto
from petl_bench.plots.peak_figure import peak_by_category
from petl_bench.plots.timeline_figure import timeline
from petl_bench.record import Record
from petl_bench.series import Axis, bars, points, timelines
from petl_bench.tables import Group, groups

_PNG_DOTS_PER_INCH = 160


def save_figures(records: Sequence[Record], folder: Path) -> list[Path]:
    """Every figure that has data, as PNG and SVG in `folder`; the same records, the same bytes.

    With one group the files are named after the plot; with more, after the group as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = groups(records)
    written: list[Path] = []
    for number, group in enumerate(found, start=1):
        suffix = f"-{number}-{slug(group.title)}" if len(found) > 1 else ""
        for name, draw in _drawable(group):
            written += save_figure(draw(group.records), folder / f"{name}{suffix}")
    return written


def _drawable(group: Group) -> Iterator[tuple[str, Callable[[Sequence[Record]], Figure]]]:
    if any(bar.peak_bytes for bar in bars(group)):
        yield "peak_by_category", peak_by_category
    for axis in get_args(Axis):
        if points(group, axis):
            yield f"pareto_{axis}", partial(pareto, x=axis)
    if timelines(group):
        yield "timeline", timeline


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """`figure` as PNG and SVG: the same figure, the same bytes."""
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    figure.savefig(png, dpi=_PNG_DOTS_PER_INCH, metadata={"Software": None})
    with rc_context({"svg.hashsalt": "petl-bench"}):  # else element ids are drawn at random
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


def slug(title: str) -> str:
    """`title` as a part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")
