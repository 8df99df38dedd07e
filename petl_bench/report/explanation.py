"""What `explain` found as one HTML file: the step's timeline by tensor, and its peak in tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from petl_bench.explanation import Explanation, StepTimeline
from petl_bench.record import Category
from petl_bench.report.chart import legend
from petl_bench.report.page import render, unbroken, write_whole
from petl_bench.report.step_chart import band_name, lifetime, step_chart
from petl_bench.tables import ABSENT, Cell, Column, Table, percent
from petl_bench.units import format_bytes

_ROWS = 60  # of modules and operators; the rest is summed


def write_explanation(
    explained: Sequence[tuple[Explanation, StepTimeline]],
    path: Path,
    *,
    headline: str,
    setting: str,
    command: str,
) -> None:
    """Write the page about `explained` to `path`: all of it or nothing."""
    charts = {
        f"step-{number}": step_chart(timeline, found)
        for number, (found, timeline) in enumerate(explained, start=1)
    }
    sections = [
        {
            "key": f"step-{number}",
            "explanation": found,
            "headline": unbroken(found.headline),
            "legend": legend([charts[f"step-{number}"]]),
            "tables": [
                ("At the peak, by category", _sizes("category", found.by_category, found)),
                ("At the peak, by module", _sizes("module", found.by_module, found)),
                ("At the peak, by operator", _sizes("operator", found.by_operator, found)),
                ("At the peak, by source line", _sizes("source line", found.by_source, found)),
            ],
            "bands": _bands(timeline),
        }
        for number, (found, timeline) in enumerate(explained, start=1)
    ]
    text = render(
        "explanation.html.jinja",
        headline=unbroken(headline),
        setting=setting,
        sections=sections,
        charts=charts,
        command=command,
    )
    write_whole(text, path)


def _sizes(
    what: str, sizes: Mapping[Category, int] | Mapping[str, int], found: Explanation
) -> Table:
    """Bytes at the peak by one of the explanation's views, most first."""
    shown = list(sizes.items())[:_ROWS]
    left = len(sizes) - len(shown)
    return Table(
        title=what,
        caption=f"and {left:,} more" if left else "",
        columns=(
            Column(header=what, align="left"),
            Column(header="allocated", align="right"),
            Column(header="share", align="right"),
        ),
        rows=tuple(
            (
                Cell(text=name.replace("_", " ") if what == "category" else name or ABSENT),
                Cell(text=format_bytes(size), number=size),
                _share(100 * size / found.peak_allocated_bytes),
            )
            for name, size in shown
        ),
    )


def _share(share: float) -> Cell:
    return Cell(text=percent(share), number=share)


def _bands(timeline: StepTimeline) -> Table:
    headers = ("tensor", "allocated", "category", "alive", "source line")
    rows = []
    for band in timeline.bands:
        tensor = band.tensor
        texts = (
            tensor.category.replace("_", " "),
            lifetime(band, timeline),
            tensor.source or ABSENT,
        )
        size = Cell(text=format_bytes(tensor.allocated_bytes), number=tensor.allocated_bytes)
        rows.append((Cell(text=band_name(band)), size, *(Cell(text=text) for text in texts)))
    return Table(
        title="tensors",
        caption=f"{len(rows):,} of {timeline.tensors:,} tensors, by bytes and time alive: the"
        " bands of the chart.",
        columns=tuple(
            Column(header=header, align="right" if header == "allocated" else "left")
            for header in headers
        ),
        rows=tuple(rows),
    )
