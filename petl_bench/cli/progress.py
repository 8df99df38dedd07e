"""A plan under way, with a progress bar on a terminal."""

import sys
from functools import partial
from typing import TYPE_CHECKING

import typer

from petl_bench.garbage import collection_resumed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor

    from rich.progress import Progress as Bar

    from petl_bench.record import Record
    from petl_bench.runner import Cell, Progress, Runner
    from petl_bench.store import Store
    from petl_bench.suite import PlannedCase


def run_plan(runner: "Runner", plan: "list[PlannedCase]", store: "Store") -> "list[Record]":
    """The plan's records. Ctrl-C stops with exit code 130; what is stored stays."""
    return _followed(len(plan), partial(runner.run, plan, store))


def run_cells(cells: "list[Cell]", store: "Store", executor: "Executor") -> "list[Record]":
    """The same of cells in more than one place."""
    from petl_bench.runner import run

    return _followed(len(cells), partial(run, cells, store, executor=executor))


def _followed(total: int, run: "Callable[[Progress], Iterable[Record]]") -> "list[Record]":
    records: list[Record] = []
    collection_resumed()
    with bar() as shown:
        task = shown.add_task("", total=total)

        def progress(planned: "PlannedCase", done: int) -> None:
            backbone = planned.case.backbone.name
            shown.update(task, description=f"{backbone} {planned.label}", completed=done)

        try:
            records.extend(run(progress))
        except KeyboardInterrupt:
            shown.stop()
            raise stopped() from None
    return records


def bar() -> "Bar":
    """A progress bar on stderr, drawn on a terminal alone."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),  # lora[r=8] is no markup
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # a log gets no bar, nor the empty line that it ends in
    )


def stopped() -> typer.Exit:
    """Say that nothing done is lost, and the exit to raise."""
    print("stopped; the same command goes on where it left off", file=sys.stderr)
    return typer.Exit(130)
