"""petl-bench show, report: records that are there already."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petl_bench.record import Record

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
    from petl_bench.tables import summary, to_csv, to_frame, to_latex, to_markdown

    if markdown + latex + csv > 1:
        raise UsageError("show: --markdown, --latex and --csv exclude each other")
    records = _read(runs)
    if csv:
        sys.stdout.write(to_csv(to_frame(records)))
    elif markdown or latex:
        render = to_latex if latex else to_markdown
        tables = summary(records, phases=phases)
        sys.stdout.write("\n\n".join(map(render, tables)) + "\n")
    else:
        print_tables(records, phases=phases)


def report(
    runs: Runs,
    out: Annotated[
        Path | None,
        typer.Option(help="The page to write.", show_default="report.html in the first folder"),
    ] = None,
) -> None:
    """Write one HTML page about finished runs."""
    from petl_bench.errors import UsageError
    from petl_bench.report import write_report

    records = _read(runs)
    first = runs[0] if runs[0].is_dir() else runs[0].parent
    page = out or first / "report.html"
    try:
        write_report(records, page, command=shlex.join(["petl-bench", *sys.argv[1:]]))
    except OSError as error:
        raise UsageError(f"out: cannot write {page}: {error.strerror}") from None
    print(page)


def print_tables(records: "Sequence[Record]", *, phases: bool) -> None:
    """Print the records' tables to the terminal; wide ones are cut by the terminal, not by us."""
    from rich.console import Console

    from petl_bench.tables import summary, to_rich

    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in summary(records, phases=phases):
        console.print(to_rich(table))


def _read(runs: list[Path]) -> "list[Record]":
    from petl_bench.errors import UsageError
    from petl_bench.store import latest, read_records

    records = latest([record for run in runs for record in read_records(run)])
    if not records:
        raise UsageError(f"records: {runs[0]} holds none")
    return records
