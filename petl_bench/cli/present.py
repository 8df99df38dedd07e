"""petl-bench show, report: records that are there already."""

import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petl_bench.cli.output import command_line, print_costs, print_tables, writing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from petl_bench.errors import UsageError
    from petl_bench.record import Record
    from petl_bench.tables import Table
    from petl_bench.tasks.record import TrainingRecord

Runs = Annotated[list[Path], typer.Argument(help="Run folders, or JSON Lines files of records.")]


def show(
    runs: Runs,
    phases: Annotated[
        bool, typer.Option("--phases", help="Show the peak of each phase, too.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="As LaTeX, for booktabs.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV, every number raw.")] = False,
) -> None:
    """Print the tables of finished runs."""
    from petl_bench.errors import UsageError
    from petl_bench.tables import to_csv, to_latex, to_markdown

    if markdown + latex + csv > 1:
        raise UsageError("show: --markdown, --latex and --csv exclude each other")
    if csv:
        sys.stdout.write(to_csv(_frame(runs)))
        return
    if markdown or latex:
        render = to_latex if latex else to_markdown
        sys.stdout.write("\n\n".join(map(render, _tables(runs, phases=phases))) + "\n")
    elif _training(runs):
        print_tables(_tables(runs, phases=phases))
    else:
        print_costs(_read(runs), phases=phases)


def report(
    runs: Runs,
    out: Annotated[
        Path | None,
        typer.Option(help="The page to write.", show_default="report.html in the first folder"),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="A folder for figures, too.", show_default="none")
    ] = None,
) -> None:
    """Write one HTML page about finished runs."""
    first = runs[0] if runs[0].is_dir() else runs[0].parent
    page = out or first / "report.html"
    write = _write_scores if _training(runs) else _write_costs
    with writing("out", page):
        write(runs, page, figures, command_line())
    print(page)


def _training(runs: list[Path]) -> bool:
    """Whether `runs` are those of `train`.

    Raises:
        UsageError: some are, and some are not.
    """
    from petl_bench.errors import UsageError
    from petl_bench.tasks.store import is_training

    found = {is_training(run): run for run in runs}
    if len(found) > 1:
        raise UsageError(
            f"records: {found[True]} holds scores and {found[False]} does not; name one kind"
        )
    return True in found


def _frame(runs: list[Path]) -> "pd.DataFrame":
    if _training(runs):
        from petl_bench.tasks import tables

        return tables.to_frame(_read_training(runs))
    from petl_bench.store import read_records
    from petl_bench.tables import latest_rows, to_frame

    # None is held: there may be a hundred thousand.
    frame = latest_rows(to_frame(chain.from_iterable(map(read_records, runs))))
    if frame.empty:
        raise _none(runs)
    return frame


def _tables(runs: list[Path], *, phases: bool) -> "Sequence[Table]":
    if not _training(runs):
        from petl_bench.tables import summary

        return summary(_read(runs), phases=phases)
    from petl_bench.tasks.boards import averages
    from petl_bench.tasks.rows import task_groups
    from petl_bench.tasks.tables import average_table
    from petl_bench.tasks.tables import summary as scores

    groups = task_groups(_read_training(runs))
    return [*map(average_table, averages(groups)), *map(scores, groups)]


def _write_costs(runs: list[Path], page: Path, figures: Path | None, command: str) -> None:
    from petl_bench.plots import save_figures
    from petl_bench.report import write_report

    records = _read(runs)
    write_report(records, page, command=command)
    if figures is not None:
        save_figures(records, figures)


def _write_scores(runs: list[Path], page: Path, figures: Path | None, command: str) -> None:
    from petl_bench.plots.score_figure import save_score_figures
    from petl_bench.report.scores import write_score_report
    from petl_bench.tasks.boards import boards

    records = _read_training(runs)
    write_score_report(records, page, command=command)
    if figures is not None:
        save_score_figures(boards(records), figures)


def _read(runs: list[Path]) -> "list[Record]":
    from petl_bench.store import latest, load_records

    records = latest(load_records(*runs))
    if not records:
        raise _none(runs)
    return records


def _read_training(runs: list[Path]) -> "list[TrainingRecord]":
    from petl_bench.tasks.rows import latest
    from petl_bench.tasks.store import read_training

    records = latest([record for run in runs for record in read_training(run)])
    if not records:
        raise _none(runs)
    return records


def _none(runs: list[Path]) -> "UsageError":
    from petl_bench.errors import UsageError

    return UsageError(f"records: {runs[0]} holds none")
