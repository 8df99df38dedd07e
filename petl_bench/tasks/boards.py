"""Boards: where each method stands on a task, or on average over several, as plain values.

The figures (`plots`) and the page (`report`) draw the same ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from petl_bench.case import BASELINE_METHOD, MethodChoice
from petl_bench.method_spec import label_fields
from petl_bench.palette import Look, look
from petl_bench.tasks.record import TrainingRecord
from petl_bench.tasks.rows import MethodRow, TaskGroup, place, spread, task_groups

Axis = Literal["simulated_bytes", "measured_bytes", "trainable_parameters"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A method's score and what it needs; of several tasks, the mean of each."""

    label: str
    choice: MethodChoice
    scores: tuple[float, ...]  # one a seed
    simulated_bytes: int | None
    measured_bytes: int | None
    trainable_parameters: int
    step_s: float

    @property
    def score(self) -> float:
        """Mean over the seeds."""
        return fmean(self.scores)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None of one alone."""
        return spread(self.scores)


@dataclass(frozen=True, kw_only=True)
class Board:
    """Methods that may be compared."""

    tasks: tuple[str, ...]
    title: str
    standings: tuple[Standing, ...]
    constant: float  # the score of always saying train's most frequent label

    @property
    def name(self) -> str:
        """Of the task, or how many they are."""
        return self.tasks[0] if len(self.tasks) == 1 else f"average of {len(self.tasks)} tasks"

    @property
    def printed_task(self) -> str | None:
        """The task whose published scores belong beside these; None for an average."""
        return self.tasks[0] if len(self.tasks) == 1 else None

    @property
    def baseline(self) -> Standing | None:
        """What the others are compared with, if it is there."""
        found = (each for each in self.standings if each.choice.name == BASELINE_METHOD)
        return next(found, None)


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A method's place in a chart."""

    label: str  # as it was asked for
    short: str  # the method's name, and what sets it apart on its curve
    x: float
    score: float
    spread: float | None
    best: bool  # nothing smaller scores as high


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One method at its sizes, smallest first."""

    kind: tuple[str, ...]  # the same in every board
    name: str
    spots: tuple[Spot, ...]


def boards(records: Iterable[TrainingRecord]) -> list[Board]:
    """Averages over tasks first, then task by task."""
    groups = task_groups(records)
    return [*averages(groups), *map(board, groups)]


def board(group: TaskGroup) -> Board:
    """The group's methods, each with the recipe that validation chose."""
    return Board(
        tasks=(group.task,),
        title=group.title,
        standings=tuple(_standing([row]) for row in group.chosen),
        constant=group.constant,
    )


def averages(groups: Iterable[TaskGroup]) -> list[Board]:
    """Boards over all tasks of the same weights and device, where there are several.

    A method is on one if it has a score in every task, and then the seeds that all tasks have.
    """
    members: dict[tuple[str, ...], list[TaskGroup]] = {}
    for group in groups:
        members.setdefault(place(group.records[0]), []).append(group)
    return [_average(found) for found in members.values() if len(found) > 1]


def _average(groups: Sequence[TaskGroup]) -> Board:
    by_label = [{row.label: row for row in group.chosen} for group in groups]
    everywhere = [[rows.get(label) for rows in by_label] for label in by_label[0]]
    complete = [[row for row in rows if row] for rows in everywhere if all(rows)]
    tasks = tuple(group.task for group in groups)
    backbone, _, device = place(groups[0].records[0])
    return Board(
        tasks=tasks,
        title=f"average of {', '.join(tasks)}: {backbone}, on {device}",
        standings=tuple(_standing(rows) for rows in complete if _seeds(rows)),
        constant=fmean(group.constant for group in groups),
    )


def _standing(rows: Sequence[MethodRow]) -> Standing:
    first = rows[0].first.trial
    return Standing(
        label=rows[0].label,
        choice=first.method,
        scores=tuple(fmean(row.scores[seed] for row in rows) for seed in _seeds(rows)),
        simulated_bytes=_mean_bytes(row.simulated_bytes for row in rows),
        measured_bytes=_mean_bytes(row.measured_bytes for row in rows),
        trainable_parameters=round(
            fmean(outcome.trainable_parameters for row in rows for outcome in row.outcomes)
        ),
        step_s=fmean(outcome.step_s for row in rows for outcome in row.outcomes),
    )


def _seeds(rows: Sequence[MethodRow]) -> list[int]:
    """Those that every row has."""
    return [seed for seed in rows[0].scores if all(seed in row.scores for row in rows)]


def _mean_bytes(sizes: Iterable[int | None]) -> int | None:
    found = list(sizes)
    known = [size for size in found if size is not None]
    return round(fmean(known)) if len(known) == len(found) else None


def curves(found: Board, axis: Axis) -> list[Curve]:
    """A curve for each method that has a size along `axis`.

    One method's choices are on one curve where they differ in numbers alone, as in `lora[r=8|32]`;
    another way to begin or another variant is a curve of its own.
    """
    placed = {each.label: size for each in found.standings if (size := getattr(each, axis))}
    members: dict[tuple[str, ...], list[Standing]] = {}
    for each in found.standings:
        if each.label in placed:
            members.setdefault(_kind(each.choice), []).append(each)
    return [
        _curve(kind, sorted(own, key=lambda each: placed[each.label]), placed, found.standings)
        for kind, own in members.items()
    ]


def _kind(choice: MethodChoice) -> tuple[str, ...]:
    """The method, and every field of its configuration that is no number, nor a list of them."""
    words = (f"{k}={v}" for k, v in choice.config.items() if isinstance(v, bool | str))
    return choice.name, *words


def looks(found: Iterable[Board]) -> dict[tuple[str, ...], Look]:
    """What every kind of curve looks like: the same in all charts of these boards."""
    drawn = (curve for board in found for curve in curves(board, "trainable_parameters"))
    kinds = dict.fromkeys(curve.kind for curve in drawn)
    return {kind: look(series) for series, kind in enumerate(kinds)}


def _curve(
    kind: tuple[str, ...],
    own: Sequence[Standing],
    placed: dict[str, int],
    everyone: Sequence[Standing],
) -> Curve:
    fields = [label_fields(each.label) for each in own]
    common = [part for part in fields[0] if all(part in parts for parts in fields)]
    name = own[0].choice.name + (f"[{','.join(common)}]" if common else "")
    others = [(placed[each.label], each.score) for each in everyone if each.label in placed]
    return Curve(
        kind=kind,
        name=name,
        spots=tuple(
            Spot(
                label=each.label,
                short=" ".join([own[0].choice.name, *(p for p in parts if p not in common)])
                if len(own) > 1
                else each.label,
                x=placed[each.label],
                score=each.score,
                spread=each.spread,
                best=not any(
                    (size < placed[each.label] and score >= each.score)
                    or (size == placed[each.label] and score > each.score)
                    for size, score in others
                ),
            )
            for each, parts in zip(own, fields, strict=True)
        ),
    )


def frontier(found: Sequence[Curve]) -> list[tuple[float, float]]:
    """Size and score of the spots that nothing smaller scores as high as, smallest first."""
    return sorted({(spot.x, spot.score) for curve in found for spot in curve.spots if spot.best})
