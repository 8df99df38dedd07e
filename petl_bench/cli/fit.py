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
    from petl_bench.fit.answers import Frontier
    from petl_bench.fit.axis import Vary
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
    from petl_bench.fit.asking import check_memories
    from petl_bench.fit.axis import Vary
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
    found = _ask(plan, axis, card, memories)
    _print(found, as_json=as_json, markdown=markdown, csv=csv)
    tell((curve, curve.skipped) for curve in found.curves if curve.skipped)
    if memory is not None and gpu is not None:
        _note_more(memories, card)
    if out is not None:
        _write(found, out)
    if any(curve.failed for curve in found.curves):
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


def _ask(
    plan: "list[PlannedCase]", axis: "Vary", card: "Card", memories: tuple[int, ...]
) -> "Frontier":
    """The plan's answers, with a progress bar on a terminal. Ctrl-C stops with 130."""
    from petl_bench.fit.asking import ask

    with bar() as shown:
        task = shown.add_task("methods", total=len(plan))

        def done(label: str) -> None:
            shown.update(task, advance=1, description=label)

        try:
            return ask(plan, axis, card, memories, done)
        except KeyboardInterrupt:
            shown.stop()
            print("stopped", file=sys.stderr)
            raise typer.Exit(130) from None


def _note_more(memories: tuple[int, ...], card: "Card") -> None:
    """Tell who names a card and more memory than it has that it has less."""
    from petl_bench.units import format_bytes

    if max(memories) > card.memory_bytes:
        print(
            f"note: PyTorch finds {format_bytes(card.memory_bytes)} on a {card.name};"
            " without --memory that is taken",
            file=sys.stderr,
        )


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
