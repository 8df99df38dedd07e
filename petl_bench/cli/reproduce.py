"""petl-bench reproduce: a paper's rows, published beside ours."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petl_bench.cards import CARDS
from petl_bench.cli import options
from petl_bench.cli.output import command_line, stdout, writing
from petl_bench.cli.progress import run_cells

if TYPE_CHECKING:
    from petl_bench import runner
    from petl_bench.papers.reproduction import Cell, Reproduction
    from petl_bench.papers.schema import Paper
    from petl_bench.record import Origin, Record

REFERENCE = Path("benchmarks/reference")
CARD = "a6000"


def reproduce(  # noqa: PLR0917 - one parameter an option
    name: Annotated[
        str | None,
        typer.Argument(
            help="A paper, or a TOML file that describes one.", show_default="list them"
        ),
    ] = None,
    row: Annotated[
        list[str] | None,
        options.option("Rows to run: ROW, TABLE or TABLE/ROW; repeatable.", "all"),
    ] = None,
    out: Annotated[
        Path | None, options.option("Folder for records, tables, figures and page.", "reports/NAME")
    ] = None,
    gpu: Annotated[
        str | None, options.option(f"The card to simulate: {', '.join(CARDS)}.", CARD)
    ] = None,
    measured: Annotated[
        list[Path] | None,
        options.option("Measured records to show beside; repeatable.", f"{REFERENCE}, if there"),
    ] = None,
    profiler: Annotated[
        str,
        typer.Option(
            help="simulated; or auto: also measure what was printed, where there is CUDA."
        ),
    ] = "auto",
    executor: options.ExecutorName = "local",
    lanes: Annotated[int, typer.Option(help="How many cases run at once.")] = 2,
) -> None:
    """Run a paper's rows and show them beside what it printed."""
    if name is None:
        _list()
        return
    from petl_bench.errors import UsageError
    from petl_bench.executors import start
    from petl_bench.papers import library
    from petl_bench.papers.reproduction import Reproduction, cells
    from petl_bench.store import Store

    if profiler not in {"auto", "simulated"}:
        raise UsageError(f"profiler: {profiler!r} is not one of auto, simulated")
    paper = library.find(name)
    found = cells(paper, row or ())
    at_hand = _measured(measured)
    asked = _asked(paper, found, gpu or CARD, measuring=profiler == "auto")
    folder = out or Path("reports") / library.name_of(name)
    store = Store(folder, timelines=False)
    records = []
    for origin, at_once in asked.items():
        with start(executor, lanes, origin, folder) as workers:
            records += run_cells(at_once, store, workers)
    reproduction = Reproduction(paper, found, [*at_hand, *records])
    _print(reproduction)
    _write(reproduction, folder)
    if any(record.status == "error" for record in records):
        raise typer.Exit(1)


def _list() -> None:
    from rich import box
    from rich.table import Table

    from petl_bench.papers import library

    table = Table("paper", "title", "source", box=box.SIMPLE_HEAD)
    for name in library.names():
        paper = library.find(name)
        table.add_row(name, paper.title, paper.source)
    stdout().print(table)


def _asked(
    paper: "Paper", found: "list[Cell]", gpu: str, *, measuring: bool
) -> "dict[Origin, list[runner.Cell]]":
    """What to run: the cells in each era of the simulation, and on a device if there is one."""
    from petl_bench import cards
    from petl_bench.papers.reproduction import plan
    from petl_bench.record import Origin
    from petl_bench.runner import Runner

    card = cards.find(gpu)
    eras = dict.fromkeys([paper.emulate, None])
    simulated = [Runner(origin=Origin.SIMULATED, card=card, emulates=era) for era in eras]
    asked = {Origin.SIMULATED: [cell for each in simulated for cell in each.cells(plan(found))]}
    if measuring and _has_cuda():
        printed = plan(cell for cell in found if cell.published is not None)
        asked[Origin.MEASURED] = Runner(origin=Origin.MEASURED, card=card).cells(printed)
    return asked


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _measured(paths: list[Path] | None) -> "list[Record]":
    """Measured records in files and folders, the newest of a case last."""
    from petl_bench.record import Origin
    from petl_bench.store import load_records

    given = paths if paths is not None else [REFERENCE] if REFERENCE.is_dir() else []
    files = [f for p in given for f in (sorted(p.rglob("*.jsonl")) if p.is_dir() else [p])]
    records = load_records(*files)
    measured = [record for record in records if record.origin is Origin.MEASURED]
    return sorted(measured, key=lambda record: record.created)


def _print(found: "Reproduction") -> None:
    from petl_bench.papers.tables import claims, column_tables, headline, not_runnable
    from petl_bench.tables import to_rich

    console = stdout()
    summary = claims(found)
    for table in [*column_tables(found, printed=True), *([summary] if summary else [])]:
        console.print(to_rich(table))
        console.print()
    for what, reason in not_runnable(found):
        console.print(f"not runnable here: {what}: {reason}", highlight=False, markup=False)
    console.print(headline(found), highlight=False, markup=False)


def _write(found: "Reproduction", folder: Path) -> None:
    from petl_bench.papers.figures import save_drawings
    from petl_bench.papers.page import write_page
    from petl_bench.papers.tables import to_frame, to_page
    from petl_bench.tables import to_csv

    command = command_line()
    with writing("out", folder):
        (folder / "tables.md").write_text(to_page(found, command), encoding="utf-8")
        (folder / "tables.csv").write_text(to_csv(to_frame(found)), encoding="utf-8")
        save_drawings(found, folder / "figures")
        write_page(found, folder / "report.html", command=command)
    print(f"report: {folder / 'report.html'}", file=sys.stderr)
