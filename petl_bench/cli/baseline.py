"""petl-bench baseline: the records that CI compares with."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petl_bench.cli.again import simulate_again
from petl_bench.cli.compare import judge, print_outcome

if TYPE_CHECKING:
    from petl_bench.record import Record

app = typer.Typer(help="The records that CI compares with.", no_args_is_help=True)


@app.callback()
def _baseline() -> None:
    """Keep `update` a word of its own: typer would run a lone command without it."""


@app.command("update")
def update(
    file: Annotated[Path, typer.Argument(help="The baseline: a JSON Lines file to commit.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="Run folders or files whose records become the baseline.",
            show_default="its own cases, simulated now",
        ),
    ] = None,
) -> None:
    """Write the baseline, and show what changes in it."""
    from petl_bench.comparison.evidence import with_parts
    from petl_bench.errors import UsageError
    from petl_bench.record import Status
    from petl_bench.store import latest, load_records, without_timeline

    before = load_records(file) if file.exists() else []
    if source:
        after = latest(load_records(*source))
    elif before:
        after = simulate_again(before)
    else:
        what = "holds no record" if file.exists() else "is not there"
        raise UsageError(f"baseline: {file} {what}; name a run with --from")
    if not after:
        raise UsageError("from: no record there")
    for record in after:
        if record.status is Status.ERROR:
            raise UsageError(f"baseline: {record.label} ended in an error: {record.reason}")
    made = [without_timeline(with_parts(record)) for record in after]
    if before:
        _show(before, made)
    _replace(file, _keeping_unchanged(before, made))
    print(f"{file}: {len(made)} cases")


def _show(before: "Sequence[Record]", after: "Sequence[Record]") -> None:
    from petl_bench.comparison.fields import FIELDS
    from petl_bench.comparison.thresholds import Threshold
    from petl_bench.errors import UsageError

    limits = [Threshold(FIELDS[name]) for name in ("peak_allocated", "peak_reserved")]
    try:
        print_outcome(judge(before, after, limits))
    except UsageError:
        print("no case of the old baseline is in the new one")


def _keeping_unchanged(before: "Sequence[Record]", after: "Sequence[Record]") -> "list[Record]":
    """`after`, the old record where only date, commit or seconds differ: a short diff to review."""
    aside = {"created", "worker_s", "environment"}
    versions = {"torch", "transformers", "peft", "device", "emulates", "allocator_settings"}

    def answer(record: "Record") -> str:
        place = record.environment.model_dump_json(include=versions)
        return record.model_dump_json(exclude=aside) + place

    known = {answer(record): record for record in before}
    return [known.get(answer(record), record) for record in after]


def _replace(file: Path, records: "Sequence[Record]") -> None:
    """Write all records or none."""
    from petl_bench.errors import UsageError

    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as lines:
            lines.writelines(record.model_dump_json() + "\n" for record in records)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UsageError(f"baseline: cannot write {file}: {error.strerror}") from None
