"""Training records as one HTML page that opens offline: score against memory, task by task."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from petl_bench.palette import Look
from petl_bench.papers.scores import PublishedPoint, published
from petl_bench.report.chart import Chart
from petl_bench.report.page import render, write_whole
from petl_bench.report.place import environment_rows, when
from petl_bench.report.reproduction import train_commands
from petl_bench.report.score_charts import (
    FRONTIER,
    Looks,
    legend,
    relative_chart,
    score_chart,
)
from petl_bench.tables import Table
from petl_bench.tasks.boards import Axis, Board, averages, board, looks
from petl_bench.tasks.record import TrainingRecord
from petl_bench.tasks.rows import TaskGroup, task_groups
from petl_bench.tasks.tables import average_table, runs_table, summary
from petl_bench.units import format_bytes

_MEMORY: dict[Axis, str] = {"simulated_bytes": "simulated", "measured_bytes": "measured"}
_HOW = """\
Each run is of one method with one seed, from the same pretrained weights, by the Trainer of \
transformers. The weights with the best validation score were tested once. Scores are means over \
seeds, and bars their standard deviation.
Where a method was trained by several recipes, say at two learning rates, the tables have a row \
for each, and the charts the one with the best validation score.
Memory is the peak of bytes allocated over a training step. Simulated: the step ran on tensors \
without data, with the longest example of the training split. Measured: the highest of all steps \
on the CUDA device named.
Points that a line joins are one method at several sizes.""".splitlines()


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """One place for a chart; with several options the reader selects which is drawn."""

    title: str
    description: str = ""  # for those who hear the page
    options: tuple[tuple[str, str], ...] = ()  # label, key of the chart
    frontier: bool = False
    published: bool = False
    level: str = ""  # what the dashed line is
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class _Section:
    """All that the page shows of one board."""

    board: Board
    finding: str
    summary: Table
    runs: Table | None
    figures: tuple[_Figure, ...]
    legend: tuple[tuple[str, Look], ...]
    commands: tuple[str, ...]


def write_score_report(records: Sequence[TrainingRecord], path: Path, *, command: str) -> None:
    """Write the page about `records`, got with `command`, to `path`: all of it or nothing.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("there are no records to report")
    groups = task_groups(records)
    charts: dict[str, Chart] = {}
    means, single = averages(groups), [board(group) for group in groups]
    shared = looks([*means, *single])
    sections = [
        _section(found, average_table(found), number, charts, shared)
        for number, found in enumerate(means, start=1)
    ]
    sections += [
        _section(found, summary(group), number, charts, shared, group)
        for number, (found, group) in enumerate(
            zip(single, groups, strict=True), start=len(sections) + 1
        )
    ]
    text = render(
        "scores.html.jinja",
        headline=sections[0],
        sections=sections,
        charts=charts,
        frontier=FRONTIER,
        how=[*_HOW, *_sources(sections)],
        environments=environment_rows([record.environment for record in records]),
        command=command,
        when=when(record.created for record in records),
    )
    write_whole(text, path)


def _section(  # noqa: PLR0917 - what a section is made of
    found: Board,
    table: Table,
    number: int,
    charts: dict[str, Chart],
    shared: Looks,
    group: TaskGroup | None = None,
) -> _Section:
    """The board's part of the page; its charts are added to `charts`."""
    figures: list[_Figure] = []
    for figure, options in _figures(found, shared):
        keys = [f"g{number}-{len(figures)}-{index}" for index in range(len(options))]
        charts |= {key: chart for key, (_, chart) in zip(keys, options, strict=True)}
        labels = [label for label, _ in options]
        named = tuple(zip(labels, keys, strict=True))
        figures.append(
            replace(
                figure,
                level=_level(figure, [chart for _, chart in options]),
                description=f"{figure.title}: {found.title}. The tables hold the same numbers.",
                options=named,
            )
        )
    return _Section(
        board=found,
        finding=finding(found),
        summary=table,
        runs=runs_table(group) if group else None,
        figures=tuple(figures),
        legend=tuple(legend(found, shared)),
        commands=tuple(train_commands(group)) if group else (),
    )


def _figures(found: Board, shared: Looks) -> Iterator[tuple[_Figure, list[tuple[str, Chart]]]]:
    """Every figure that has data, and the charts to choose from in it."""
    absolute = [(name, score_chart(found, axis, shared)) for axis, name in _MEMORY.items()]
    yield from _with_data(_Figure(title="Score against peak memory", frontier=True), absolute)
    printed = published(found.printed_task)
    relative = [
        (name, relative_chart(found, axis, printed, shared)) for axis, name in _MEMORY.items()
    ]
    figure = _Figure(
        title="Against full fine-tuning, and what was published",
        published=True,
        caption=_published_caption(printed),
    )
    yield from _with_data(figure, relative)
    sizes = [("all", score_chart(found, "trainable_parameters", shared))]
    yield from _with_data(_Figure(title="Score against trainable parameters", frontier=True), sizes)


def _with_data(
    figure: _Figure, options: Sequence[tuple[str, Chart | None]]
) -> Iterator[tuple[_Figure, list[tuple[str, Chart]]]]:
    drawn = [(name, chart) for name, chart in options if chart is not None]
    if drawn:
        yield figure, drawn


def _level(figure: _Figure, drawn: Sequence[Chart]) -> str:
    if not any("shapes" in chart["layout"] for chart in drawn):
        return ""
    return "full fine-tuning" if figure.published else "always the most frequent label"


def _published_caption(printed: Sequence[PublishedPoint]) -> str:
    if not printed:
        return ""
    scored = dict.fromkeys(point.scored for point in printed)
    said = (
        "Both axes are relative, so that other backbones can stand beside this one: published"
        f" points are of the paper's own backbone and scores ({', '.join(scored)})."
    )
    far = [f"{point.label} ({point.gain_points:+.1f} points)" for point in printed if point.far]
    return said + (f" Too far below to be drawn: {', '.join(far)}." if far else "")


def _sources(sections: Sequence[_Section]) -> list[str]:
    if not any(figure.published for section in sections for figure in section.figures):
        return []
    return [
        f"Published points: {source}."
        for source in dict.fromkeys(p.source for p in published(None))
    ]


def finding(found: Board) -> str:
    """What the board shows, in a sentence."""
    on = "average" if len(found.tasks) > 1 else found.name
    if not found.standings:
        return f"On {on}, no method has a score."
    best = max(found.standings, key=lambda each: each.score)
    said = f"On {on}, {best.label} scores best, {100 * best.score:.1f} %"
    sized = [(each.simulated_bytes, each) for each in found.standings if each.simulated_bytes]
    if not sized:
        return _unbroken(f"{said}.")
    size, least = min(sized, key=lambda pair: pair[0])
    if least is best:
        return _unbroken(f"{said}, and needs least memory, {format_bytes(size)}.")
    return _unbroken(
        f"{said}; {least.label} needs least memory, {format_bytes(size)}, and scores"
        f" {100 * least.score:.1f} %."
    )


def _unbroken(text: str) -> str:
    """`text` with its numbers tied to their units, so that no line ends between them."""
    return re.sub(r"(?<=\d) (?=[%KMGT])", "\N{NO-BREAK SPACE}", text)
