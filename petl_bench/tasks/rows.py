"""Training records that may be compared, and a method's seeds together."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from petl_bench.tasks.metrics import score
from petl_bench.tasks.record import Outcome, Recipe, TrainingRecord


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method's seeds together."""

    label: str
    recipe: Recipe
    done: tuple[TrainingRecord, ...]  # with an outcome
    others: tuple[TrainingRecord, ...]

    @property
    def first(self) -> TrainingRecord:
        """One of them."""
        return (*self.done, *self.others)[0]

    @property
    def outcomes(self) -> list[Outcome]:
        """One a seed."""
        return [record.outcome for record in self.done if record.outcome]

    @property
    def scores(self) -> dict[int, float]:
        """Test scores by seed."""
        seeds = (record.trial.seed for record in self.done)
        tests = (score(outcome.test) for outcome in self.outcomes)
        return dict(zip(seeds, tests, strict=True))

    @property
    def spread(self) -> float | None:
        """Standard deviation of the test scores over seeds; None of one alone."""
        return spread(self.scores.values())

    @property
    def simulated_bytes(self) -> int | None:
        """Peak of a step with the longest example."""
        found = [record.simulated for record in self.done if record.simulated]
        return found[0].peak_allocated_bytes if found else None

    @property
    def measured_bytes(self) -> int | None:
        """Highest peak of any seed's steps."""
        peaks = [outcome.peak_allocated_bytes for outcome in self.outcomes]
        return max((peak for peak in peaks if peak is not None), default=None)

    def mean(self, of: Callable[[Outcome], float]) -> float | None:
        """Mean over the seeds that are done; None of none."""
        return fmean(map(of, self.outcomes)) if self.done else None


@dataclass(frozen=True, kw_only=True)
class TaskGroup:
    """Records of one task's data, one pretrained backbone and one device."""

    records: tuple[TrainingRecord, ...]

    @property
    def task(self) -> str:
        """The task's name."""
        return self.records[0].trial.task

    @property
    def constant(self) -> float:
        """The score of always saying train's most frequent label."""
        return score(self.records[0].constant)

    @property
    def title(self) -> str:
        """What was trained, in one line."""
        trial, environment = self.records[0].trial, self.records[0].environment
        size = f"{trial.data.train_examples:,} examples"
        recipes = {(r.trial.recipe.steps, r.trial.recipe.batch_size) for r in self.records}
        if len(recipes) == 1:
            ((steps, batch_size),) = recipes
            size = f"{steps:,} steps of {batch_size} ({size})"
        return f"{trial.task}: {trial.backbone.name}, {size}, on {environment.device}"

    @property
    def rows(self) -> list[MethodRow]:
        """A row a method and recipe, in the order of the records."""
        found: dict[tuple[str, Recipe], list[TrainingRecord]] = {}
        for record in self.records:
            found.setdefault((record.label, record.trial.recipe), []).append(record)
        return [
            MethodRow(
                label=label,
                recipe=recipe,
                done=tuple(r for r in of_method if r.outcome is not None),
                others=tuple(r for r in of_method if r.outcome is None),
            )
            for (label, recipe), of_method in found.items()
        ]

    @property
    def chosen(self) -> list[MethodRow]:
        """A row a method: of several recipes, the one with the best mean validation score."""
        best: dict[str, tuple[float, MethodRow]] = {}
        for row in self.rows:
            found = row.mean(validation_score)
            if found is not None and found > best.get(row.label, (-math.inf, row))[0]:
                best[row.label] = found, row
        return [row for _, row in best.values()]


def task_groups(records: Iterable[TrainingRecord]) -> list[TaskGroup]:
    """`records` split into comparable groups, in order of first appearance."""
    members: dict[tuple[str, ...], list[TrainingRecord]] = {}
    for record in records:
        members.setdefault((record.trial.data.sha256, *place(record)), []).append(record)
    return [TaskGroup(records=tuple(found)) for found in members.values()]


def place(record: TrainingRecord) -> tuple[str, str, str]:
    """What groups that are averaged over have in common: the weights, and where they train."""
    trial = record.trial
    return trial.backbone.name, trial.weights_sha256, record.environment.device


def latest(records: Sequence[TrainingRecord]) -> list[TrainingRecord]:
    """One record a trial and device: the last one written, at its first one's place."""
    newest = {(record.trial_id, record.environment.device): record for record in records}
    return list(newest.values())


def spread(values: Iterable[float]) -> float | None:
    """Standard deviation; None of one alone."""
    found = list(values)
    return stdev(found) if len(found) > 1 else None


def validation_score(outcome: Outcome) -> float:
    """The best look's, whose weights were tested."""
    return max(score(each.metrics) for each in outcome.evaluations)
