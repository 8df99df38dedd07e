"""Where a paper's methods stand against its full fine-tuning: printed scores beside printed memory.

Memory as a share and scores as a difference can be set beside those of another backbone; the
printed numbers themselves cannot.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from petl_bench.case import BASELINE_METHOD
from petl_bench.papers import library
from petl_bench.papers.schema import Paper, PaperTable, Row

_FARTHEST_POINTS = 15.0  # below full fine-tuning


@dataclass(frozen=True, kw_only=True)
class PublishedPoint:
    """One printed row."""

    label: str
    memory_percent: float  # of full fine-tuning's
    gain_points: float  # of score, over full fine-tuning's
    scored: str  # what on: a task, or an average
    source: str  # paper and table, and how they came to be known here

    @property
    def far(self) -> bool:
        """So far below that a chart with it would show nothing else."""
        return self.gain_points < -_FARTHEST_POINTS


def published(task: str | None) -> list[PublishedPoint]:
    """Of every built-in paper with memory and scores: on `task`, or on average if it lacks that.

    None: on average.

    Rows on a table's other backbones are left out.
    """
    return [point for name in library.names() for point in _of_paper(library.find(name), task)]


def _of_paper(paper: Paper, task: str | None) -> Iterator[PublishedPoint]:
    for drawing in paper.drawings:
        if drawing.kind == "scores":
            table = next(table for table in paper.tables if table.name == drawing.table)
            yield from _of_table(paper, table, drawing.column, drawing.score, task)


def _of_table(
    paper: Paper, table: PaperTable, column: str, average: str, task: str | None
) -> Iterator[PublishedPoint]:
    known = [row for row in table.rows if not row.backbone and column in row.published]
    baseline = next((row for row in known if row.method == BASELINE_METHOD), None)
    if baseline is None:
        return
    shared = task if all(task in row.scores for row in known) else None
    zero = _score(baseline, shared)
    for row in known:
        if row is baseline:
            continue  # where both axes begin
        score = _score(row, shared)
        if score is not None and zero is not None:
            share = row.published[column].value / baseline.published[column].value
            yield PublishedPoint(
                label=row.label,
                memory_percent=100 * share,
                gain_points=score - zero,
                scored=shared or average,
                source=f"{paper.source}, {table.title}: {paper.provenance[table.provenance]}",
            )


def _score(row: Row, task: str | None) -> float | None:
    return row.average if task is None else row.scores[task]
