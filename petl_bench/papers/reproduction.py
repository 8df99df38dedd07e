"""A paper's cells as cases to run; records as values beside the published ones; its claims.

Nothing here runs anything: plans go to a Runner, its records come back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from petl_bench import method_spec
from petl_bench.case import Case, Workload
from petl_bench.errors import UsageError, hint
from petl_bench.papers.schema import Claim, Column, Paper, PaperTable, Quantity, Relation, Row
from petl_bench.record import Measurement, Origin, Record
from petl_bench.suite import PlannedCase, Suite

_BACKBONE_FIELDS = ("name", "dtype", "attention", "quantize")
# Of a workload, what changes how often a step is taken, and no byte of it.
_REPETITION = ("seed", "warmup_steps", "measured_steps", "timed_steps")


PERCENTS = frozenset({Quantity.UPDATED_PERCENT, Quantity.UPDATED_PERCENT_OF_ALL})
"""Quantities that differ by points."""


class Place(StrEnum):
    """Where a number of ours comes from."""

    EMULATED = "emulated"  # simulated as the paper's era of PyTorch
    TODAY = "today"  # simulated as PyTorch is today
    MEASURED = "measured"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a paper's table, and the case that stands for it."""

    table: PaperTable
    row: Row
    column: Column
    planned: PlannedCase | None
    refusal: str | None  # why there is no case; None if there is one

    @property
    def key(self) -> tuple[str, str, str]:
        """Table, row and column by name."""
        return self.table.name, self.row.name, self.column.name

    @property
    def published(self) -> float | None:
        """What the paper printed."""
        found = self.row.published.get(self.column.name)
        return None if found is None else found.value


def cells(paper: Paper, only: Sequence[str] = ()) -> list[Cell]:
    """The paper's cells, row by row; `only` those of tables, rows or TABLE/ROW so named.

    Raises:
        UsageError: nothing of the paper is called so.
    """
    found = [
        _cell(table, row, column)
        for table in paper.tables
        for row in table.rows
        if not only or {table.name, row.name, f"{table.name}/{row.name}"} & set(only)
        for column in table.columns
    ]
    for name in only:
        known = {n for c in found for n in (c.table.name, c.row.name)}
        if name.rpartition("/")[2] not in known:
            every = {n for t in paper.tables for n in (t.name, *(row.name for row in t.rows))}
            raise UsageError(f"row: no table or row {name!r}; {hint(name, sorted(every))}")
    return found


def plan(found: Iterable[Cell]) -> list[PlannedCase]:
    """The cases of `found`, none twice."""
    cases: dict[str, PlannedCase] = {}
    for cell in found:
        if cell.planned is not None:
            cases.setdefault(cell.planned.case.case_id, cell.planned)
    return list(cases.values())


def _cell(table: PaperTable, row: Row, column: Column) -> Cell:
    planned, refusal = None, None
    try:
        planned = _plan(table, row, column)
    except UsageError as error:
        refusal = str(error)
    return Cell(table=table, row=row, column=column, planned=planned, refusal=refusal)


def _plan(table: PaperTable, row: Row, column: Column) -> PlannedCase:
    backbone = {**table.backbone, **row.backbone}
    workload = {**table.workload, **row.workload, **column.workload}
    for name, given, known in (
        ("backbone", backbone, _BACKBONE_FIELDS),
        ("workload", workload, ("name", *Workload.model_fields)),
    ):
        for field in given:
            if field not in known:
                raise UsageError(f"this version's {name} has no field {field!r}")
    suite = Suite(
        methods=(row.method,),
        backbone={field: [value] for field, value in backbone.items()},
        workload={field: [value] for field, value in workload.items()},
    )
    labels = [label for label, _ in method_spec.parse_specs(row.method)]
    found = [planned for planned in suite.plan() if planned.label in labels]
    if len(found) != 1:
        raise UsageError(f"{row.method!r} is {len(found)} cases here, not one")
    return found[0]


# --------------------------------------------------------------------------------------------
# Records to values


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim beside our own numbers."""

    claim: Claim
    ours: dict[Place, float]  # where all of its rows have numbers

    def difference(self, place: Place) -> float:
        """Percent by which ours is above the published value."""
        return 100 * (self.ours[place] / self.claim.published - 1)

    def stands(self, place: Place) -> bool:
        """Whether ours is within the claim's tolerance, or beyond it to the claim's good."""
        apart = self.difference(place)
        if self.claim.at_least and apart > 0:
            return True
        return abs(apart) <= self.claim.tolerance_percent


class Reproduction:
    """A paper's cells with the records that were got for them."""

    def __init__(self, paper: Paper, found: Sequence[Cell], records: Iterable[Record]) -> None:
        self.paper = paper
        self.cells = tuple(found)
        self.records = tuple(records)
        self._found = {(_place(record), question(record.case)): record for record in self.records}
        self._cells = {cell.key: cell for cell in self.cells}

    @property
    def places(self) -> list[Place]:
        """Where there are records from, the paper's own era first."""
        present = {place for place, _ in self._found}
        return [place for place in Place if place in present]

    def record(self, cell: Cell, place: Place) -> Record | None:
        """The cell's record of `place`."""
        if cell.planned is None:
            return None
        return self._found.get((place, question(cell.planned.case)))

    def value(self, cell: Cell, place: Place) -> float | None:
        """Ours, in the column's unit; None where there is no number."""
        seen = self._seen(cell, place)
        if seen is None:
            return None
        match cell.column.quantity:
            case Quantity.PEAK_MEMORY:
                return seen.peak_allocated_bytes / self.paper.unit_bytes
            case Quantity.UPDATED_PERCENT:
                return 100 * seen.trainable_parameters / seen.backbone_parameters
            case Quantity.UPDATED_PERCENT_OF_ALL:
                return 100 * seen.trainable_parameters / seen.total_parameters
            case Quantity.TRAINABLE_PARAMETERS:
                return seen.trainable_parameters

    def difference(self, cell: Cell, place: Place) -> float | None:
        """By how much ours is above the published value: percent of it, or points of percents."""
        ours = self.value(cell, place)
        if ours is None or not cell.published:
            return None
        if cell.column.quantity in PERCENTS:
            return ours - cell.published
        return 100 * (ours / cell.published - 1)

    def refusal(self, cell: Cell) -> str | None:
        """Why the cell has no number of ours, or not everywhere."""
        if cell.refusal is not None:
            return cell.refusal
        reasons = [
            record.reason
            for place in Place
            if (record := self.record(cell, place)) is not None and record.measurement is None
        ]
        return "; ".join(dict.fromkeys(filter(None, reasons))) or None

    def verdicts(self) -> list[Verdict]:
        """The paper's claims on the rows asked for, each with the numbers that there are."""
        return [
            Verdict(
                claim=claim,
                ours={
                    place: number
                    for place in self.places
                    if (number := self._uphold(claim, cells, place)) is not None
                },
            )
            for claim in self.paper.claims
            if (cells := self._cells_of(claim)) is not None
        ]

    def _cells_of(self, claim: Claim) -> list[Cell] | None:
        """What a claim relates; None where not all of its rows were asked for."""
        names = filter(None, (claim.row, claim.baseline, claim.other))
        keys = [(claim.table, name, claim.column) for name in names]
        return [self._cells[key] for key in keys] if self._cells.keys() >= set(keys) else None

    def _seen(self, cell: Cell, place: Place) -> Measurement | None:
        record = self.record(cell, place)
        return None if record is None else record.measurement

    def _uphold(self, claim: Claim, cells: Iterable[Cell], place: Place) -> float | None:
        """The claim's number, recomputed from ours alone; None where a row has none."""
        read = {
            Relation.SPEED_RATIO: self._rate,
            Relation.TRAINABLE_PARAMETERS: self._trainable,
        }.get(claim.relation, self.value)
        numbers = [read(cell, place) for cell in cells]
        known = [number for number in numbers if number is not None]
        return _related(claim.relation, known) if len(known) == len(numbers) else None

    def _trainable(self, cell: Cell, place: Place) -> float | None:
        seen = self._seen(cell, place)
        return None if seen is None else seen.trainable_parameters

    def _rate(self, cell: Cell, place: Place) -> float | None:
        """Samples a second: timed where measured, else the roofline's estimate."""
        seen = self._seen(cell, place)
        if seen is None or cell.planned is None:
            return None
        batch = cell.planned.case.workload.batch_size
        if seen.step_times_s:
            return batch / median(seen.step_times_s)
        return None if seen.roofline is None else batch / seen.roofline.step_s


def _related(relation: Relation, numbers: Sequence[float]) -> float:
    """The number that `relation` makes of those of its rows, in the order of the claim."""
    row, baseline, other = (*numbers, 0.0, 0.0)[:3]
    match relation:
        case Relation.SAVING_PERCENT:
            return 100 * (1 - row / baseline)
        case Relation.SAVING_RATIO:
            return (baseline - row) / (baseline - other)
        case Relation.MEMORY_RATIO:
            return baseline / row
        case Relation.SPEED_RATIO:
            return row / baseline
        case Relation.TRAINABLE_PARAMETERS:
            return row


def question(case: Case) -> str:
    """An id that cases share which need the same memory.

    Repetitions do not count, and fields that a method has gained since have their defaults.
    """
    plain = {field: Workload.model_fields[field].default for field in _REPETITION}
    try:
        method = method_spec.resolve(case.method.name, case.method.config)
    except UsageError:  # of a method or field that there is no more
        method = case.method
    workload = case.workload.model_copy(update=plain)
    return case.model_copy(update={"method": method, "workload": workload}).case_id


def _place(record: Record) -> Place:
    if record.origin is Origin.MEASURED:
        return Place.MEASURED
    return Place.EMULATED if record.environment.emulates else Place.TODAY
