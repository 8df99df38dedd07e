"""A plan under way, with a progress bar on a terminal."""

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from petl_bench.record import Record
    from petl_bench.runner import Runner
    from petl_bench.store import Store
    from petl_bench.suite import PlannedCase


def run_plan(runner: "Runner", plan: "list[PlannedCase]", store: "Store") -> "list[Record]":
    """The plan's records. Ctrl-C stops with exit code 130; what is stored stays."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    records: list[Record] = []
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),  # lora[r=8] is no markup
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # a log gets no bar, nor the empty line that it ends in
    ) as bar:
        task = bar.add_task("", total=len(plan))

        def progress(planned: "PlannedCase", done: int) -> None:
            backbone = planned.case.backbone.name
            bar.update(task, description=f"{backbone} {planned.label}", completed=done)

        try:
            records.extend(runner.run(plan, store, progress))
        except KeyboardInterrupt:
            bar.stop()
            print("stopped; the same command goes on where it left off", file=sys.stderr)
            raise typer.Exit(130) from None
    return records
