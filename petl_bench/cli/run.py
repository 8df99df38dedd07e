"""petl-bench run: plan, run, store, print, report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petl_bench.cards import DEFAULT_CARD
from petl_bench.cli import options
from petl_bench.cli.misfits import check_fit, tell_skipped
from petl_bench.cli.output import command_line, print_costs, print_tables, writing
from petl_bench.cli.progress import run_plan

if TYPE_CHECKING:
    from petl_bench.cards import Card
    from petl_bench.record import Origin, Record
    from petl_bench.suite import PlannedCase, Suite

Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        "-m",
        help="What to compare, such as lst,lora[r=8|32]; full fine-tuning is always added.",
        show_default="all",
    ),
]
SuiteFile = Annotated[
    Path | None,
    typer.Option("--suite", help="A TOML file with a grid; options given here override it."),
]


@options.with_case_options
def run(
    *,
    methods: Methods = None,
    case: options.CaseOptions,
    profiler: Annotated[
        str,
        typer.Option(help="cuda measures, simulated predicts; auto measures where there is CUDA."),
    ] = "auto",
    gpu: options.Gpu = None,
    emulate: options.Emulate = None,
    suite: SuiteFile = None,
    executor: options.ExecutorName = "local",
    lanes: options.Lanes = None,
    out: Annotated[
        Path | None,
        options.option(
            "Folder for records, tables, figures and report.", "runs/ and a name of its own"
        ),
    ] = None,
    phases: Annotated[
        bool, typer.Option("--phases", help="Show the peak of each phase, too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the records as JSON Lines instead of a table.")
    ] = False,
) -> None:
    """Measure or simulate methods: table, figures, report."""
    from petl_bench import cards
    from petl_bench.errors import UsageError

    card = cards.find(gpu or DEFAULT_CARD)
    origin = _origin(profiler, executor)
    options.check_era(emulate)
    for name, value in (("gpu", gpu), ("emulate", emulate)):
        if value and origin == "measured":
            raise UsageError(f"{name}: is for simulations; add --profiler simulated")
    grid = _grid(suite, methods, case.axes())
    plan = grid.plan()
    asked = grid.asked_for(plan)
    check_fit(asked)
    from petl_bench.executors import start
    from petl_bench.runner import Runner
    from petl_bench.store import Store

    folder = out or Path("runs") / _run_name(plan, origin, card, emulate)
    with start(executor, lanes, origin, folder) as workers:
        runner = Runner(origin=origin, card=card, emulates=emulate, executor=workers)
        records = run_plan(runner, plan, Store(folder))
    if as_json:
        for record in records:
            sys.stdout.write(record.model_dump_json() + "\n")
    else:
        print_costs(records, phases=phases)
    _write_outputs(records, folder)
    if grid.takes_the_largest:
        _tell_the_largest(records, folder, printed=not as_json)
    tell_skipped(records, asked)
    if any(record.status == "error" for record in records):
        raise typer.Exit(1)


def _origin(profiler: str, executor: str) -> "Origin":
    from petl_bench.errors import UsageError
    from petl_bench.record import Origin

    if profiler == "simulated":
        return Origin.SIMULATED
    if profiler not in {"auto", "cuda"}:
        raise UsageError(f"profiler: {profiler!r} is not one of auto, cuda, simulated")
    if profiler == "cuda" and executor != "local":
        return Origin.MEASURED  # the GPUs are elsewhere
    import torch

    if torch.cuda.is_available():
        return Origin.MEASURED
    if profiler == "cuda":
        raise UsageError("profiler: cuda needs a CUDA device and there is none; use simulated")
    return Origin.SIMULATED


def _grid(path: Path | None, methods: str | None, axes: dict[str, dict[str, list[Any]]]) -> "Suite":
    """The suite in the file, if any, with what was given on the command line put over it."""
    from petl_bench import registry
    from petl_bench.suite import Suite, load_suite

    base = load_suite(path) if path else Suite(methods=())
    given_methods = (methods,) if methods is not None else base.methods or registry.names()
    return Suite(
        methods=given_methods,
        backbone={**base.backbone, **axes["backbone"]},
        workload={**base.workload, **axes["workload"]},
    )


def _run_name(
    plan: "list[PlannedCase]", origin: "Origin", card: "Card", emulate: str | None
) -> str:
    """A name that the same request gets again, so that it resumes."""
    import hashlib

    place = "-".join(filter(None, [card.name, emulate])) if origin == "simulated" else "cuda"
    ids = [planned.case.case_id for planned in plan]
    digest = hashlib.sha256("\n".join([origin.value, place, *ids]).encode()).hexdigest()
    return f"{plan[0].case.backbone.name}-{place}-{digest[:8]}"


def _write_outputs(records: "list[Record]", folder: Path) -> None:
    from petl_bench.plots import save_figures
    from petl_bench.report import write_report
    from petl_bench.tables import summary, to_csv, to_frame, to_markdown

    markdown = "\n\n".join(map(to_markdown, summary(records))) + "\n"
    with writing("out", folder):
        (folder / "table.md").write_text(markdown, encoding="utf-8")
        (folder / "table.csv").write_text(to_csv(to_frame(records)), encoding="utf-8")
        save_figures(records, folder / "figures")
        write_report(records, folder / "report.html", command=command_line())
    print(f"report: {folder / 'report.html'}", file=sys.stderr)


def _tell_the_largest(records: "list[Record]", folder: Path, *, printed: bool) -> None:
    """What one run over all the workloads needs: on the terminal, and after the other tables."""
    from petl_bench.tables import across_workloads, to_markdown

    tables = across_workloads(records)
    with (folder / "table.md").open("a", encoding="utf-8") as file:
        file.writelines(f"\n{to_markdown(table)}\n" for table in tables)
    if printed:
        print_tables(tables)
