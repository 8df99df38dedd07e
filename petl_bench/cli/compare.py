"""petl-bench compare: whether memory has grown, and where."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petl_bench.cli.again import simulate_again
from petl_bench.cli.output import stdout, writing

if TYPE_CHECKING:
    from petl_bench.comparison import Outcome
    from petl_bench.comparison.thresholds import Threshold
    from petl_bench.record import Record


def compare(  # noqa: PLR0917 - one parameter an option
    base: Annotated[Path, typer.Argument(help="Records to judge by: a run folder, or a file.")],
    new: Annotated[
        list[Path] | None,
        typer.Argument(help="Records to judge.", show_default="the base's cases, simulated now"),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD[:LIMIT]",
            help="What fails, such as peak_allocated:0.5% or peak_reserved:2MiB; may be repeated. "
            "Without a limit, simulated numbers may not move and measured ones by their noise.",
            show_default="peak_allocated",
        ),
    ] = None,
    warn_on: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD[:LIMIT]", help="What only warns; likewise."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Whatever the base does not say fails, improvements too."),
    ] = False,
    markdown: Annotated[
        Path | None,
        typer.Option(help="Write a page; $GITHUB_STEP_SUMMARY gets it anyway."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Judge records by others: exit 1 if memory grew, 2 if nothing could be compared."""
    from petl_bench.comparison import annotations
    from petl_bench.comparison import junit as junit_xml
    from petl_bench.comparison import markdown as pages
    from petl_bench.comparison.thresholds import DEFAULT, parse

    fails = [parse(text) for text in fail_on] if fail_on else [DEFAULT]
    warns = [parse(text) for text in warn_on or ()]
    before = _read([base])
    after = _read(new) if new else simulate_again(before)
    outcome = judge(before, after, fails, warns, strict=strict)
    if as_json:
        sys.stdout.write(outcome.model_dump_json() + "\n")
    else:
        print_outcome(outcome)
    if markdown is not None:
        _write(markdown, "markdown", pages.page(outcome))
    if junit is not None:
        _write(junit, "junit", junit_xml.document(outcome))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _write(Path(summary), "GITHUB_STEP_SUMMARY", pages.page(outcome) + "\n", append=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in annotations.lines(outcome):
            print(line, file=sys.stderr)  # GitHub reads both streams, and stdout may be JSON
    raise typer.Exit(outcome.exit_code)


def judge(
    before: "Sequence[Record]",
    after: "Sequence[Record]",
    fail_on: "Sequence[Threshold]",
    warn_on: "Sequence[Threshold]" = (),
    *,
    strict: bool = False,
) -> "Outcome":
    """The outcome, with what moved found out by simulating again where records do not say."""
    from petl_bench.comparison import compare as compare_subjects
    from petl_bench.comparison.evidence import with_parts_of_moved
    from petl_bench.comparison.subjects import of_records

    def once() -> "Outcome":
        return compare_subjects(
            of_records(before), of_records(after), fail_on=fail_on, warn_on=warn_on, strict=strict
        )

    outcome = once()
    if not any(case.by_category and case.moves is None for case in outcome.cases):
        return outcome
    before = with_parts_of_moved(before, outcome.cases)
    after = with_parts_of_moved(after, outcome.cases)
    return once()


def print_outcome(outcome: "Outcome") -> None:
    """The table, then what moved in each case that did, the worst first."""
    from petl_bench.comparison.tables import table
    from petl_bench.comparison.words import details, message
    from petl_bench.tables import to_rich

    console = stdout()
    console.print(to_rich(table(outcome)))
    for case in outcome.cases:
        if details(case):
            console.print()
            console.print(message(case), markup=False, highlight=False)


def _read(paths: Sequence[Path]) -> "list[Record]":
    from petl_bench.errors import UsageError
    from petl_bench.store import load_records

    records = load_records(*paths)
    if not records:
        raise UsageError(f"records: {paths[0]} holds none")
    return records


def _write(path: Path, option: str, text: str, *, append: bool = False) -> None:
    with writing(option, path), path.open("a" if append else "w", encoding="utf-8") as file:
        file.write(text)
