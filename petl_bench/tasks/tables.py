"""Training records as tables for people, and rows for programs."""

from collections.abc import Callable, Sequence
from statistics import fmean

import pandas as pd

from petl_bench.record import Status
from petl_bench.tables import Cell, Column, Table
from petl_bench.tasks.boards import Board, Standing
from petl_bench.tasks.metrics import score
from petl_bench.tasks.record import Outcome, TrainingRecord
from petl_bench.tasks.rows import MethodRow, TaskGroup, validation_score
from petl_bench.units import format_bytes, format_count

_RECIPE = {"batch size": "batch_size", "steps": "steps"}


def summary(group: TaskGroup) -> Table:
    """Score, memory and time of each method."""
    found = group.rows
    measured = any(row.measured_bytes is not None for row in found)
    shown: list[tuple[str, Callable[[MethodRow], Cell]]] = [
        ("seeds", lambda row: Cell.of(len(row.done), str)),
        ("test score", lambda row: _mean(row, _test_score, _percent)),
        ("± over seeds", lambda row: Cell.of(row.spread, _percent)),
        ("validation score", lambda row: _mean(row, validation_score, _percent)),
        ("trainable", lambda row: _mean(row, _trainable, lambda n: format_count(round(n)))),
        ("peak memory, simulated", lambda row: Cell.of(row.simulated_bytes, format_bytes)),
    ]
    if measured:
        shown.append(("peak memory, measured", lambda r: Cell.of(r.measured_bytes, format_bytes)))
    shown += [
        ("time per step (ms)", lambda row: _mean(row, _step_s, _milliseconds)),
        ("learning rate", lambda row: Cell.of(row.recipe.learning_rate, _rate)),
        *_energy(found),
        *_differing(found),
    ]
    return Table(
        title=group.title,
        caption=caption(group.records),
        columns=(
            Column(header="method", align="left"),
            *(Column(header=header, align="right") for header, _ in shown),
            Column(header="status", align="left"),
        ),
        rows=tuple(
            (Cell(text=row.label), *(cell(row) for _, cell in shown), _status(row)) for row in found
        ),
    )


def caption(records: Sequence[TrainingRecord]) -> str:
    """How the numbers are meant."""
    first = records[0]
    metrics = " and ".join(first.constant)
    what = metrics if len(first.constant) == 1 else f"the mean of {metrics}"
    said = (
        f"Score: {what}, in percent, of the weights with the best validation score; always saying"
        f" the most frequent label scores {_percent(score(first.constant))}."
    )
    peaks = [record.simulated for record in records if record.simulated]
    if peaks:
        said += (
            f" Simulated memory is of a step on a {peaks[0].card} whose longest example has"
            f" {peaks[0].source_length_tokens} tokens."
        )
    return said


def average_table(found: Board) -> Table:
    """Scores of each method on average over tasks, and what it needs on average."""
    shown: list[tuple[str, Callable[[Standing], Cell]]] = [
        ("seeds", lambda each: Cell.of(len(each.scores), str)),
        ("average score", lambda each: Cell.of(each.score, _percent)),
        ("± over seeds", lambda each: Cell.of(each.spread, _percent)),
        ("trainable", lambda each: Cell.of(each.trainable_parameters, format_count)),
        ("peak memory, simulated", lambda each: Cell.of(each.simulated_bytes, format_bytes)),
    ]
    if any(each.measured_bytes is not None for each in found.standings):
        shown.append(
            ("peak memory, measured", lambda each: Cell.of(each.measured_bytes, format_bytes))
        )
    shown.append(("time per step (ms)", lambda each: Cell.of(each.step_s, _milliseconds)))
    return Table(
        title=found.title,
        caption=(
            f"Mean of {', '.join(found.tasks)}, of the methods with a score in each; always saying"
            f" the most frequent label scores {_percent(found.constant)}. Memory, parameters and"
            " time are means over the tasks, too."
        ),
        columns=(
            Column(header="method", align="left"),
            *(Column(header=header, align="right") for header, _ in shown),
        ),
        rows=tuple(
            (Cell(text=each.label), *(cell(each) for _, cell in shown)) for each in found.standings
        ),
    )


def runs_table(group: TaskGroup) -> Table:
    """A row a seed."""
    shown: list[tuple[str, Callable[[TrainingRecord], Cell]]] = [
        ("seed", lambda record: Cell.of(record.trial.seed, str)),
        ("learning rate", lambda record: Cell.of(record.trial.recipe.learning_rate, _rate)),
        ("test score", _of(_test_score, _percent)),
        ("validation score", _of(validation_score, _percent)),
        ("best step", _of(lambda outcome: outcome.best_step, "{:,}".format)),
        ("steps", lambda record: Cell.of(record.trial.recipe.steps, "{:,}".format)),
        ("last training loss", _of(lambda o: o.evaluations[-1].train_loss, "{:.4f}".format)),
        ("time (s)", _of(lambda outcome: outcome.elapsed_s, "{:.0f}".format)),
    ]
    return Table(
        title="Every run",
        caption="",
        columns=(
            Column(header="method", align="left"),
            *(Column(header=header, align="right") for header, _ in shown),
            Column(header="trial", align="left"),
            Column(header="status", align="left"),
        ),
        rows=tuple(
            (
                Cell(text=record.label),
                *(cell(record) for _, cell in shown),
                Cell(text=record.trial_id),
                _status_of(record),
            )
            for record in group.records
        ),
    )


def _of(
    of: Callable[[Outcome], float], text: Callable[[float], str]
) -> Callable[[TrainingRecord], Cell]:
    def cell(record: TrainingRecord) -> Cell:
        return Cell.of(of(record.outcome) if record.outcome else None, text)

    return cell


def _status_of(record: TrainingRecord) -> Cell:
    said = f"{record.status}: {record.reason}" if record.reason else str(record.status)
    return Cell(text=said, status=record.status)


def to_frame(records: Sequence[TrainingRecord]) -> pd.DataFrame:
    """One row a record, every number raw, null where there is none."""
    frame = pd.DataFrame([_raw(record) for record in records])
    integers = [name for name in frame if str(name).endswith(("_bytes", "_parameters", "_step"))]
    return frame.astype(dict.fromkeys(integers, "Int64"))


def _raw(record: TrainingRecord) -> dict[str, object]:
    trial, outcome, simulated = record.trial, record.outcome, record.simulated
    return {
        "task": trial.task,
        "backbone": trial.backbone.name,
        "label": record.label,
        "seed": trial.seed,
        "status": record.status.value,
        "reason": record.reason,
        "device": record.environment.device,
        "batch_size": trial.recipe.batch_size,
        "steps": trial.recipe.steps,
        "learning_rate": trial.recipe.learning_rate,
        "test_score": score(outcome.test) if outcome else None,
        "validation_score": validation_score(outcome) if outcome else None,
        **{f"test_{name}": outcome.test[name] if outcome else None for name in record.constant},
        "constant_score": score(record.constant),
        "best_step": outcome.best_step if outcome else None,
        "trainable_parameters": outcome.trainable_parameters if outcome else None,
        "total_parameters": outcome.total_parameters if outcome else None,
        "step_s": outcome.step_s if outcome else None,
        "elapsed_s": outcome.elapsed_s if outcome else None,
        "energy_j": outcome.energy_j if outcome else None,
        "simulated_peak_allocated_bytes": simulated.peak_allocated_bytes if simulated else None,
        "simulated_peak_reserved_bytes": simulated.peak_reserved_bytes if simulated else None,
        "measured_peak_allocated_bytes": outcome.peak_allocated_bytes if outcome else None,
    }


def _energy(found: Sequence[MethodRow]) -> list[tuple[str, Callable[[MethodRow], Cell]]]:
    """A column where any run has it."""

    def cell(row: MethodRow) -> Cell:
        known = [o.energy_j for o in row.outcomes if o.energy_j is not None]
        return Cell.of(fmean(known) if known else None, lambda joules: f"{joules / 1000:.1f}")

    known = any(outcome.energy_j is not None for row in found for outcome in row.outcomes)
    return [("energy of a run (kJ)", cell)] if known else []


def _differing(found: Sequence[MethodRow]) -> list[tuple[str, Callable[[MethodRow], Cell]]]:
    """A column for each part of the recipe that not all rows have in common."""

    def column(name: str) -> Callable[[MethodRow], Cell]:
        return lambda row: Cell.of(getattr(row.recipe, name), "{:,}".format)

    return [
        (header, column(name))
        for header, name in _RECIPE.items()
        if len({getattr(row.recipe, name) for row in found}) > 1
    ]


def _test_score(outcome: Outcome) -> float:
    return score(outcome.test)


def _trainable(outcome: Outcome) -> float:
    return outcome.trainable_parameters


def _step_s(outcome: Outcome) -> float:
    return outcome.step_s


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def _rate(rate: float) -> str:
    return f"{rate:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _mean(row: MethodRow, of: Callable[[Outcome], float], text: Callable[[float], str]) -> Cell:
    return Cell.of(row.mean(of), text)


def _status(row: MethodRow) -> Cell:
    """The first seed that did not end well, or ok."""
    if not row.others:
        return Cell(text="ok", status=Status.OK)
    bad = row.others[0]
    return Cell(text=f"seed {bad.trial.seed} {bad.status}: {bad.reason}", status=bad.status)
