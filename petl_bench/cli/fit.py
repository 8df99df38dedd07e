"""petl-bench fit: the most that fits into a card's memory."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petl_bench.cards import DEFAULT_CARD
from petl_bench.cli import options
from petl_bench.cli.misfits import check_fit, check_one_workload, tell
from petl_bench.cli.output import print_tables, writing
from petl_bench.cli.progress import bar

if TYPE_CHECKING:
    from petl_bench.cards import Card
    from petl_bench.fit import Curve, Frontier, Question
    from petl_bench.suite import PlannedCase


@options.with_case_options
def fit(
    *,
    memory: Annotated[
        str | None,
        options.option("The card's memory, such as 16GiB or 16GiB,24GiB.", "that of the --gpu"),
    ] = None,
    gpu: options.Gpu = None,
    vary: Annotated[
        str, typer.Option(help="What is made as large as fits: batch, length or backbone.")
    ] = "batch",
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            "-m",
            help="What to ask about, such as lst,lora[r=8|32].",
            show_default="all",
        ),
    ] = None,
    case: options.CaseOptions,
    out: Annotated[
        Path | None, options.option("Folder for JSON, tables and figures.", "none written")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, every number raw.")] = False,
) -> None:
    """Find the largest batch (or length, or backbone) that fits into a card's memory."""
    from petl_bench import cards, registry
    from petl_bench.errors import UsageError
    from petl_bench.fit import Frontier, Question, Vary, check_memories
    from petl_bench.suite import Suite, one_of

    if as_json + markdown + csv > 1:
        raise UsageError("fit: --json, --markdown and --csv exclude each other")
    card = cards.find(gpu or DEFAULT_CARD)
    axis = one_of("vary", Vary, vary)
    varied = {Vary.BATCH: case.batch_size, Vary.LENGTH: case.source_length}.get(axis)
    if varied is not None:
        raise UsageError(f"fit: the {axis} is what is looked for; leave its option out")
    memories = _memories(memory, card)
    check_memories(memories, card)
    suite = Suite(methods=registry.names() if methods is None else (methods,), **case.axes())
    plan = suite.asked_for(suite.plan())
    check_one_workload("fit", plan)
    check_fit(plan)
    if out is not None:
        with writing("out", out):  # not after minutes
            out.mkdir(parents=True, exist_ok=True)
    places = _places(plan[0], axis)
    from petl_bench.environment import simulated_environment

    questions = [
        Question(planned=planned, vary=axis, card=card, memory_bytes=memories) for planned in plan
    ]
    found = Frontier(
        vary=axis,
        environment=simulated_environment(card),
        context_bytes=card.context_bytes,
        memory_bytes=memories,
        places=places,
        curves=tuple(_ask(questions)),
    )
    _print(found, as_json=as_json, markdown=markdown, csv=csv)
    tell(
        (curve, curve.reason.removeprefix("skipped: "))
        for curve in found.curves
        if curve.reason and curve.reason.startswith("skipped: ")
    )
    if memory is not None and gpu is not None and max(memories) > card.memory_bytes:
        from petl_bench.units import format_bytes

        print(
            f"note: PyTorch finds {format_bytes(card.memory_bytes)} on a {card.name};"
            " without --memory that is taken",
            file=sys.stderr,
        )
    if out is not None:
        _write(found, out)
    if any(curve.reason and curve.reason.startswith("error") for curve in found.curves):
        raise typer.Exit(1)


def _memories(text: str | None, card: "Card") -> tuple[int, ...]:
    """The memories asked for, in bytes and in the order written, each once."""
    from petl_bench.errors import UsageError
    from petl_bench.units import parse_bytes

    if text is None:
        return (card.memory_bytes,)
    try:
        return tuple(dict.fromkeys(parse_bytes(part) for part in text.split(",")))
    except ValueError as error:
        raise UsageError(f"memory: {error}") from None


def _places(planned: "PlannedCase", axis: str) -> tuple[str, ...]:
    """The backbones by size, where they are the axis."""
    if axis != "backbone":
        return ()
    from petl_bench.errors import UsageError
    from petl_bench.fit.probe import axis_of_backbones

    found = tuple(each.name for each in axis_of_backbones(planned.case.backbone))
    if not found:
        raise UsageError(f"vary: no backbone like {planned.case.backbone.name} is built in")
    return found


def _ask(questions: "list[Question]") -> "list[Curve]":
    """Every question's answer, with a progress bar on a terminal. Ctrl-C stops with 130."""
    from petl_bench.fit import curves

    with bar() as shown:
        task = shown.add_task("methods", total=len(questions))
        try:
            return curves(questions, lambda label: shown.update(task, advance=1, description=label))
        except KeyboardInterrupt:
            shown.stop()
            print("stopped", file=sys.stderr)
            raise typer.Exit(130) from None


def _print(found: "Frontier", *, as_json: bool, markdown: bool, csv: bool) -> None:
    from petl_bench.fit.tables import details, overview, to_frame
    from petl_bench.tables import to_csv, to_markdown

    several = len(found.memory_bytes) > 1
    tables = [*([overview(found)] if several else []), details(found)]
    if as_json:
        sys.stdout.write(found.model_dump_json() + "\n")
    elif markdown:
        sys.stdout.write("\n\n".join(map(to_markdown, tables)) + "\n")
    elif csv:
        sys.stdout.write(to_csv(to_frame(found)))
    else:
        print_tables(tables)


def _write(found: "Frontier", folder: Path) -> None:
    from petl_bench.fit.tables import details, overview, to_frame
    from petl_bench.plots.fit_figures import save_fit_figures
    from petl_bench.tables import to_csv, to_markdown

    with writing("out", folder):
        (folder / "fit.json").write_text(found.model_dump_json() + "\n", encoding="utf-8")
        text = "\n\n".join(map(to_markdown, (overview(found), details(found)))) + "\n"
        (folder / "fit.md").write_text(text, encoding="utf-8")
        (folder / "fit.csv").write_text(to_csv(to_frame(found)), encoding="utf-8")
        save_fit_figures(found, folder)
    print(f"figures: {folder}", file=sys.stderr)
