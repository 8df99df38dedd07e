"""A plan under way, with a progress bar on a terminal."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from petl_bench.record import Record
    from petl_bench.runner import Runner
    from petl_bench.store import Store
    from petl_bench.suite import PlannedCase


class Lane(NamedTuple):
    """A plan and who runs it, beside others."""

    name: str
    runner: "Runner"
    plan: "list[PlannedCase]"


class _StoppedError(Exception):
    """Another lane, or the user, has stopped this one."""


def run_plan(runner: "Runner", plan: "list[PlannedCase]", store: "Store") -> "list[Record]":
    """The plan's records. Ctrl-C stops with exit code 130; what is stored stays."""
    records: list[Record] = []
    with bar() as shown:
        task = shown.add_task("", total=len(plan))

        def progress(planned: "PlannedCase", done: int) -> None:
            backbone = planned.case.backbone.name
            shown.update(task, description=f"{backbone} {planned.label}", completed=done)

        try:
            records.extend(runner.run(plan, store, progress))
        except KeyboardInterrupt:
            shown.stop()
            raise stopped() from None
    return records


def run_lanes(lanes: Sequence[Lane], store: "Store") -> "list[Record]":
    """The records of all lanes, which run side by side with a bar each, lane after lane.

    Ctrl-C lets each lane finish its case and stops with exit code 130; what is stored stays.
    """
    import threading
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    stop = threading.Event()
    with bar() as shown, ThreadPoolExecutor(max(len(lanes), 1)) as pool:

        def run(lane: Lane) -> "list[Record]":
            task = shown.add_task(lane.name, total=len(lane.plan))

            def progress(planned: "PlannedCase", done: int) -> None:
                if stop.is_set():
                    raise _StoppedError
                what = f"{lane.name}: {planned.case.backbone.name} {planned.label}"
                shown.update(task, description=what, completed=done)

            records = list(lane.runner.run(lane.plan, store, progress))
            shown.update(task, description=lane.name, completed=len(lane.plan))
            return records

        under_way = [pool.submit(run, lane) for lane in lanes]
        try:
            wait(under_way, return_when=FIRST_EXCEPTION)
            return [record for future in under_way for record in future.result()]
        except KeyboardInterrupt:
            shown.stop()
            raise stopped() from None
        finally:
            stop.set()


def bar() -> "Progress":
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
