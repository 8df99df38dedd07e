"""Training records as tables for people, rows for programs, and points for a figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import pandas as pd

from petl_bench.record import Status
from petl_bench.tables import ABSENT, Cell, Column, Table
from petl_bench.tasks.metrics import score
from petl_bench.tasks.record import TrainingRecord
from petl_bench.units import format_bytes, format_count


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method's seeds together."""

    label: str
    learning_rate: float
    done: tuple[TrainingRecord, ...]  # with an outcome
    others: tuple[TrainingRecord, ...]

    @property
    def first(self) -> TrainingRecord:
        """One of them."""
        return (*self.done, *self.others)[0]

    @property
    def scores(self) -> list[float]:
        """Test scores, one a seed."""
        return [score(record.outcome.test) for record in self.done if record.outcome]

    @property
    def spread(self) -> float | None:
        """Standard deviation of the test scores over seeds; None of one alone."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def simulated_bytes(self) -> int | None:
        """Peak of a step with the longest example."""
        found = [record.simulated for record in self.done if record.simulated]
        return found[0].peak_allocated_bytes if found else None

    @property
    def measured_bytes(self) -> int | None:
        """Highest peak of any seed's steps."""
        outcomes = [record.outcome for record in self.done if record.outcome]
        peaks = [o.peak_allocated_bytes for o in outcomes if o.peak_allocated_bytes is not None]
        return max(peaks, default=None)

    def mean(self, of: Callable[[TrainingRecord], float]) -> float:
        """Mean over the seeds that are done."""
        return fmean(map(of, self.done))


def rows(records: Sequence[TrainingRecord]) -> list[Row]:
    """A row a method and learning rate, in the order of the records."""
    found: dict[tuple[str, float], list[TrainingRecord]] = {}
    for record in records:
        key = record.label, record.trial.recipe.learning_rate
        found.setdefault(key, []).append(record)
    return [
        Row(
            label=label,
            learning_rate=rate,
            done=tuple(r for r in of_method if r.outcome is not None),
            others=tuple(r for r in of_method if r.outcome is None),
        )
        for (label, rate), of_method in found.items()
    ]


def title(records: Sequence[TrainingRecord]) -> str:
    """What was trained, in one line."""
    trial, environment = records[0].trial, records[0].environment
    recipe = trial.recipe
    return (
        f"{trial.task}: {trial.backbone.name}, {recipe.steps:,} steps of {recipe.batch_size}"
        f" ({trial.data.train_examples:,} examples), on {environment.device}"
    )


def summary(records: Sequence[TrainingRecord]) -> Table:
    """Score, memory and time of each method."""
    found = rows(records)
    measured = any(row.measured_bytes is not None for row in found)
    shown: list[tuple[str, Callable[[Row], Cell]]] = [
        ("seeds", lambda row: _number(len(row.done), str)),
        ("test score", lambda row: _mean(row, _test_score, _percent)),
        ("± over seeds", lambda row: _number(row.spread, _percent)),
        ("validation score", lambda row: _mean(row, _validation_score, _percent)),
        ("trainable", lambda row: _mean(row, _trainable, lambda n: format_count(round(n)))),
        ("peak memory, simulated", lambda row: _number(row.simulated_bytes, format_bytes)),
    ]
    if measured:
        shown.append(("peak memory, measured", lambda r: _number(r.measured_bytes, format_bytes)))
    shown += [
        ("time per step (ms)", lambda row: _mean(row, _step_s, lambda s: f"{1000 * s:.1f}")),
        ("learning rate", lambda row: _number(row.learning_rate, lambda rate: f"{rate:g}")),
    ]
    return Table(
        title=title(records),
        caption=caption(records),
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
        "validation_score": _validation_score(record) if outcome else None,
        **{f"test_{name}": outcome.test[name] if outcome else None for name in record.constant},
        "constant_score": score(record.constant),
        "best_step": outcome.best_step if outcome else None,
        "trainable_parameters": outcome.trainable_parameters if outcome else None,
        "total_parameters": outcome.total_parameters if outcome else None,
        "step_s": outcome.step_s if outcome else None,
        "elapsed_s": outcome.elapsed_s if outcome else None,
        "simulated_peak_allocated_bytes": simulated.peak_allocated_bytes if simulated else None,
        "simulated_peak_reserved_bytes": simulated.peak_reserved_bytes if simulated else None,
        "measured_peak_allocated_bytes": outcome.peak_allocated_bytes if outcome else None,
    }


def _test_score(record: TrainingRecord) -> float:
    assert record.outcome is not None
    return score(record.outcome.test)


def _validation_score(record: TrainingRecord) -> float:
    assert record.outcome is not None
    return max(score(each.metrics) for each in record.outcome.evaluations)


def _trainable(record: TrainingRecord) -> float:
    assert record.outcome is not None
    return record.outcome.trainable_parameters


def _step_s(record: TrainingRecord) -> float:
    assert record.outcome is not None
    return record.outcome.step_s


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _mean(row: Row, of: Callable[[TrainingRecord], float], text: Callable[[float], str]) -> Cell:
    return _number(row.mean(of) if row.done else None, text)


def _number(value: float | None, text: Callable[..., str]) -> Cell:
    return Cell(text=ABSENT if value is None else text(value), number=value)


def _status(row: Row) -> Cell:
    """The first seed that did not end well, or ok."""
    if not row.others:
        return Cell(text="ok", status=Status.OK)
    bad = row.others[0]
    return Cell(text=f"seed {bad.trial.seed} {bad.status}: {bad.reason}", status=bad.status)
