"""petl-bench verify: the same cases measured and simulated, side by side."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petl_bench.cards import CARDS
from petl_bench.cli.output import command_line, stdout, writing
from petl_bench.cli.progress import run_plan

if TYPE_CHECKING:
    from petl_bench.cards import Card
    from petl_bench.record import Record
    from petl_bench.suite import Suite
    from petl_bench.verify.errors import Verification

REFERENCE = Path("benchmarks/reference")


def verify(  # noqa: PLR0917 - one parameter an option
    records: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files or folders of measured records.",
            show_default=f"measure, or without CUDA all under {REFERENCE}",
        ),
    ] = None,
    suite: Annotated[
        Path | None,
        typer.Option(
            "--suite",
            help="A TOML file with the grid to measure.",
            show_default="every method on the smallest backbone, batch 8 and 32, fp32 and bf16",
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help=f"The card that stands for the measured device: {', '.join(CARDS)}.",
            show_default="by its name",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for records and verify.md.")] = Path(
        "reports/verify"
    ),
    phases: Annotated[
        bool, typer.Option("--phases", help="Print the phases of each case, too.")
    ] = False,
    fail_on: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            min=0.0,
            help="Exit with 1 when the whole step's peak allocated is further off in any case, "
            "or a case ends otherwise than measured.",
        ),
    ] = None,
) -> None:
    """Set simulated memory beside measured.

    With a CUDA device and no RECORDS it measures first; the same command goes on where it left off.
    """
    from petl_bench import cards

    named = cards.find(gpu) if gpu else None
    measured = _measured(records or [], suite, out)
    devices = {record.environment.device for record in measured}
    chosen = {device: named or cards.of_device(device) for device in devices}
    _make(out)
    simulated = _simulate(measured, chosen)

    from petl_bench.verify.errors import verify as verified
    from petl_bench.verify.pairs import pair_up

    names = {device: card.name for device, card in chosen.items()}
    verification = verified(pair_up(measured, simulated, names))
    _print(verification, phases=phases)
    _write(verification, simulated, out)
    _judge(verification, fail_on)


def _measured(paths: list[Path], suite: Path | None, out: Path) -> "list[Record]":
    """The measured records at hand, or else made on this machine's device.

    Raises:
        UsageError: there are none, and nothing to measure on.
    """
    from petl_bench.errors import UsageError

    if paths and suite:
        raise UsageError("suite: measures anew; leave it out, or the records")
    if paths:
        return _read(paths)
    import torch

    if torch.cuda.is_available():
        return _measure(suite, out / "measured")
    if suite:
        raise UsageError("suite: measuring needs a CUDA device and there is none; name records")
    return _read([REFERENCE] if REFERENCE.is_dir() else [])


def _read(paths: list[Path]) -> "list[Record]":
    from petl_bench.errors import UsageError
    from petl_bench.record import Origin
    from petl_bench.store import load_records
    from petl_bench.verify.pairs import newest

    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    found = load_records(*files)
    measured = newest(record for record in found if record.origin is Origin.MEASURED)
    if not measured:
        places = ", ".join(map(str, paths or [REFERENCE]))
        raise UsageError(
            f"records: no measured one in {places}; measure some on a machine with a CUDA device"
        )
    return measured


def _measure(suite: Path | None, folder: Path) -> "list[Record]":
    # A device that no card is known for comes to light only now, since this process opens no CUDA
    # context; what was measured is stored, and the same command with --gpu goes on from there.
    from petl_bench import cards
    from petl_bench.record import Origin
    from petl_bench.runner import Runner
    from petl_bench.store import Store

    runner = Runner(origin=Origin.MEASURED, card=cards.find(cards.DEFAULT_CARD))
    return run_plan(runner, _grid(suite).plan(), Store(folder))


def _grid(path: Path | None) -> "Suite":
    """The suite in the file, or the built-in one: small enough for some five minutes."""
    from dataclasses import replace

    from petl_bench import backbones, registry
    from petl_bench.suite import Suite, load_suite

    if path is None:
        smallest = min(backbones.names(), key=_parameters)
        return Suite(
            methods=registry.names(),
            backbone={"name": [smallest], "dtype": ["fp32", "bf16"]},
            workload={"batch_size": [8, 32]},
        )
    suite = load_suite(path)
    return replace(suite, methods=suite.methods or registry.names())


def _parameters(name: str) -> int:
    from petl_bench import backbones

    backbone = backbones.find(name)
    return backbones.FAMILIES[backbone.family].dims(backbone.config).total_parameters


def _simulate(measured: "Sequence[Record]", chosen: "Mapping[str, Card]") -> "list[Record]":
    """A simulation of each measured case, always anew: what verifies must not be stale."""
    from tempfile import TemporaryDirectory

    from petl_bench.environment import allocator_options
    from petl_bench.record import Origin
    from petl_bench.runner import Runner
    from petl_bench.store import Store
    from petl_bench.suite import PlannedCase

    plans: dict[tuple[Card, str], dict[str, PlannedCase]] = {}
    for record in measured:
        place = record.environment
        plan = plans.setdefault((chosen[place.device], place.allocator_settings), {})
        plan[record.case.case_id] = PlannedCase(label=record.label, case=record.case)
    simulated = []
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for (card, options), plan in plans.items():
            with allocator_options(options):
                runner = Runner(origin=Origin.SIMULATED, card=card)
                simulated += run_plan(runner, list(plan.values()), store)
    return simulated


def _make(out: Path) -> None:
    with writing("out", out):
        out.mkdir(parents=True, exist_ok=True)


def _print(verification: "Verification", *, phases: bool) -> None:
    from petl_bench.tables import to_rich
    from petl_bench.verify.tables import case_tables, finding, overview

    console = stdout()
    for table in (*case_tables(verification, phases=phases), *overview(verification)):
        console.print(to_rich(table))
        console.print()
    console.print(finding(verification), highlight=False, markup=False)


def _write(verification: "Verification", simulated: "Sequence[Record]", out: Path) -> None:
    from petl_bench.store import without_timeline
    from petl_bench.verify.tables import to_report

    page = to_report(verification, command_line())
    lines = "".join(without_timeline(record).model_dump_json() + "\n" for record in simulated)
    with writing("out", out):
        (out / "simulated.jsonl").write_text(lines, encoding="utf-8")
        (out / "verify.md").write_text(page, encoding="utf-8")
    print(f"report: {out / 'verify.md'}", file=sys.stderr)


def _judge(verification: "Verification", fail_on: float | None) -> None:
    """Exit 2 when nothing was compared, 1 when `fail_on` percent is exceeded."""
    from petl_bench.errors import UsageError
    from petl_bench.verify.errors import Counter
    from petl_bench.verify.tables import signed_percent

    whole = verification.summary(Counter.PEAK_ALLOCATED)
    if whole is None:
        raise UsageError("verify: no case has numbers on both sides; nothing was compared")
    if fail_on is None:
        return
    too_far = abs(whole.worst.error) * 100 > fail_on
    if too_far or verification.disagreements:
        apart = len(verification.disagreements)
        print(
            f"fail-on: worst error {signed_percent(whole.worst.error)}, allowed {fail_on:g} %; "
            f"cases that ended otherwise: {apart}",
            file=sys.stderr,
        )
        raise typer.Exit(1)
