"""petl-bench train: score, memory and time of methods on a real task."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petl_bench.cards import DEFAULT_CARD
from petl_bench.cli import options
from petl_bench.cli.misfits import check_fit, tell
from petl_bench.cli.progress import bar, stopped
from petl_bench.garbage import collection_resumed
from petl_bench.tasks.catalogue import TASKS

if TYPE_CHECKING:
    from petl_bench.cards import Card
    from petl_bench.tasks.planning import Bench, PlannedTrial
    from petl_bench.tasks.record import TrainingRecord
    from petl_bench.tasks.running import Under
    from petl_bench.tasks.store import TrainingStore


def train(  # noqa: PLR0917 - one parameter an option
    task: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(TASKS)}. reviews, bbc, reviews-zh and easy-vqa come in packages;"
            " sentence and pair are your own, with --data.",
        ),
    ] = "reviews",
    backbone: Annotated[
        str | None,
        options.option(
            "A folder of pretrained weights, a hub id, or out of a package: "
            + ", ".join(dict.fromkeys(task.backbone for task in TASKS.values())),
            "the task's",
        ),
    ] = None,
    methods: Annotated[
        str | None, options.option("What to train, such as full,lora[r=8|32],lst.", "all")
    ] = None,
    seeds: Annotated[str, typer.Option(help="One training run each.")] = "0,1,2",
    epochs: Annotated[int | None, options.option("Times through the data.", "the task's")] = None,
    batch_size: Annotated[int | None, options.option("Examples a step.", "the task's")] = None,
    learning_rate: Annotated[
        str | None,
        options.option(
            "At the end of the warm-up: 1e-3, or by method full=1e-4,lora=2e-3.",
            "each method's own",
        ),
    ] = None,
    warmup_steps: Annotated[
        int | None, options.option("Steps until then.", "500, at most a tenth")
    ] = None,
    max_steps: Annotated[int | None, options.option("Stop after so many steps.", "none")] = None,
    data: Annotated[
        Path | None,
        options.option(
            "Folder with train, validation and test as .jsonl, .csv or .parquet.",
            "a package, or the hub",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        options.option(
            "Of the task's images: a .safetensors, .npz or .h5 file, or a folder.", "the data's"
        ),
    ] = None,
    gpu: options.Gpu = None,
    out: Annotated[
        Path | None,
        options.option("Folder for records, tables and figure.", "runs/ and a name of its own"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the records as JSON Lines instead of a table.")
    ] = False,
) -> None:
    """Train methods on a real task: score, memory and time of each."""
    from rich.console import Console

    from petl_bench import cards, method_spec, registry
    from petl_bench.tasks import catalogue, rates, splits, weights

    card = cards.find(gpu or DEFAULT_CARD)
    numbers = _seeds(seeds)
    learning_rates = rates.Rates() if learning_rate is None else rates.parse(learning_rate)
    asked_task = catalogue.find(task)
    methods = methods or ",".join(registry.names())
    method_spec.parse_specs(methods)  # before minutes of reading
    from petl_bench.tasks.planning import Asked, Bench, cases
    from petl_bench.tasks.store import TrainingStore

    asked = Asked(
        epochs=epochs,
        batch_size=batch_size,
        max_steps=max_steps,
        learning_rates=learning_rates,
        warmup_steps=warmup_steps,
    )
    asked.check()
    with Console(stderr=True).status("reading weights and data; the first time may take minutes"):
        found = weights.find(backbone or asked_task.backbone)
        wanted = cases(asked_task, found, methods)
        check_fit(wanted, found.misfit)
        loaded = splits.load(asked_task, data, features)
    bench = Bench(task=asked_task, splits=loaded, weights=found)
    plan = bench.plan(methods, numbers, asked)
    folder = out or Path("runs") / _run_name(plan)
    records = _run(bench, plan, TrainingStore(folder), card)
    if as_json:
        for record in records:
            sys.stdout.write(record.model_dump_json() + "\n")
    else:
        _print(records)
    _write(records, folder)
    tell((each, reason) for each in wanted if (reason := found.misfit(each.case)))
    if any(record.status == "error" for record in records):
        raise typer.Exit(1)


def _seeds(text: str) -> list[int]:
    from petl_bench.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) < 2**32 for part in parts):
        raise UsageError(f"seeds: {text!r} is not a list of whole numbers, such as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def _run(
    bench: "Bench", plan: "list[PlannedTrial]", store: "TrainingStore", card: "Card"
) -> "list[TrainingRecord]":
    """The plan's records, each told as it comes. Ctrl-C stops with 130; what is stored stays."""
    from petl_bench.tasks.running import run

    steps = sum(planned.trial.recipe.steps for planned in plan)
    records: list[TrainingRecord] = []
    collection_resumed()
    with store.or_nothing(), bar() as shown:
        task = shown.add_task("", total=steps)

        def progress(under: "Under") -> None:
            before = sum(planned.trial.recipe.steps for planned in plan[: under.done])
            what = f"{under.planned.label}, seed {under.planned.trial.seed}"
            shown.update(task, description=what, completed=before + under.step)

        try:
            for record in run(bench, plan, store, card, progress):
                records.append(record)
                line = _line(record, len(records), len(plan))
                shown.console.print(line, markup=False, highlight=False, soft_wrap=True)
        except KeyboardInterrupt:
            shown.stop()
            raise stopped() from None
    return records


def _line(record: "TrainingRecord", number: int, of: int) -> str:
    from petl_bench.tasks.metrics import score

    how = f"{record.status}: {record.reason}"
    if record.outcome is not None:
        how = f"test {100 * score(record.outcome.test):.1f} after {record.outcome.elapsed_s:.0f} s"
    return f"[{number}/{of}] {record.label}, seed {record.trial.seed}: {how}"


def _run_name(plan: "list[PlannedTrial]") -> str:
    """A name that the same request gets again, so that it resumes."""
    import hashlib

    ids = "\n".join(planned.trial.trial_id for planned in plan)
    first = plan[0].trial
    digest = hashlib.sha256(ids.encode()).hexdigest()[:8]
    return f"{first.task}-{first.backbone.name}-{digest}"


def _print(records: "list[TrainingRecord]") -> None:
    from petl_bench.cli.output import print_tables
    from petl_bench.tasks.rows import task_groups
    from petl_bench.tasks.tables import summary

    print_tables(map(summary, task_groups(records)))


def _write(records: "list[TrainingRecord]", folder: Path) -> None:
    from petl_bench.cli.output import command_line, writing
    from petl_bench.plots.score_figure import save_score_figures
    from petl_bench.report.scores import write_score_report
    from petl_bench.tables import to_csv, to_markdown
    from petl_bench.tasks.boards import boards
    from petl_bench.tasks.rows import task_groups
    from petl_bench.tasks.tables import summary, to_frame

    markdown = "\n".join(to_markdown(summary(group)) for group in task_groups(records))
    with writing("out", folder):
        (folder / "table.md").write_text(markdown, encoding="utf-8")
        (folder / "table.csv").write_text(to_csv(to_frame(records)), encoding="utf-8")
        save_score_figures(boards(records), folder / "figures")
        write_score_report(records, folder / "report.html", command=command_line())
    print(f"report: {folder / 'report.html'}", file=sys.stderr)
