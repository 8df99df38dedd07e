"""What a paper's file may say: rows as cases to run, and the values that the paper printed.

A file is TOML. Every value of a paper has a provenance, its own or its column's or table's:

    title = "A paper"
    source = "Somebody 2022, arXiv:0000.00000"
    memory_unit = "1000 MiB"

    [[tables]]
    name = "table-1"
    title = "Table 1: GLUE"
    provenance = "recalled"
    backbone = { name = "t5-base" }
    columns = [{ name = "memory", header = "training memory", quantity = "peak_memory" }]

    [[tables.rows]]
    name = "lora"
    label = "LoRA"
    method = "lora[r=32]"
    published = { memory = { value = 12.6, provenance = "confirmed" } }
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from petl_bench.case import Frozen
from petl_bench.eras import ERAS
from petl_bench.units import GIB, PAPER_GB

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
Text = Annotated[str, Field(min_length=1)]
Options = dict[str, bool | int | float | str]


class Provenance(StrEnum):
    """How a published value came to be known here."""

    CONFIRMED = "confirmed"  # read in the paper or its authors' text, or derived again
    QUOTED = "quoted"  # read in a text that quotes the paper
    RECALLED = "recalled"  # from memory of the paper


class Quantity(StrEnum):
    """What a column is about."""

    PEAK_MEMORY = "peak_memory"  # allocated, over the whole step, in the paper's unit
    UPDATED_PERCENT = "updated_percent"  # trainable parameters of the backbone's
    UPDATED_PERCENT_OF_ALL = "updated_percent_of_all"  # of all, added ones included
    TRAINABLE_PARAMETERS = "trainable_parameters"


class Relation(StrEnum):
    """What a claim says of two or three rows."""

    SAVING_PERCENT = "saving_percent"  # what `row` saves of the memory of `baseline`
    SAVING_RATIO = "saving_ratio"  # its saving over that of `other`
    MEMORY_RATIO = "memory_ratio"  # memory of `baseline` over that of `row`
    SPEED_RATIO = "speed_ratio"  # samples/s of `row` over those of `baseline`
    TRAINABLE_PARAMETERS = "trainable_parameters"  # of `row`


UNIT_BYTES = {"1000 MiB": PAPER_GB, "GiB": GIB, "GB": 10**9}


def _as_table(given: Any) -> Any:
    """A bare number stands for a value without a provenance of its own."""
    return {"value": given} if isinstance(given, int | float) else given


class Published(Frozen):
    """One printed value."""

    value: float
    provenance: Provenance | None = None  # None: its column's, or its table's
    note: Text | None = None


Printed = Annotated[Published, BeforeValidator(_as_table)]


class Column(Frozen):
    """One column of a paper's table, and what to run for it."""

    name: Name
    header: Text
    quantity: Quantity
    workload: Options = Field(default_factory=dict)  # over the row's
    provenance: Provenance | None = None
    note: Text | None = None


class Row(Frozen):
    """One row: its recipe here, and what the paper printed."""

    name: Name
    label: Text
    method: Text  # as on the command line
    backbone: Options = Field(default_factory=dict)  # over the table's
    workload: Options = Field(default_factory=dict)  # over the table's
    published: dict[str, Printed] = Field(default_factory=dict)  # by column
    scores: dict[str, float] = Field(default_factory=dict)
    average: float | None = None  # of the scores, as printed
    series: Text | None = None  # the line of a figure that it is a point of
    note: Text | None = None


class PaperTable(Frozen):
    """One table or figure of a paper."""

    name: Name
    title: Text
    provenance: Provenance
    note: Text | None = None
    backbone: Options = Field(default_factory=dict)
    workload: Options = Field(default_factory=dict)
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names(self) -> "PaperTable":
        _unique("rows", (row.name for row in self.rows))
        _unique("columns", (column.name for column in self.columns))
        columns = [column.name for column in self.columns]
        for row in self.rows:
            for name in row.published:
                if name not in columns:
                    known = ", ".join(columns)
                    raise ValueError(f"row {row.name}: no column {name!r}; there are: {known}")
        return self

    def provenance_of(self, row: Row, column: Column) -> Provenance | None:
        """Of the row's published value in `column`; None if there is none."""
        found = row.published.get(column.name)
        if found is None:
            return None
        return found.provenance or column.provenance or self.provenance


class Claim(Frozen):
    """A sentence of the paper that our own numbers can uphold or not."""

    text: Text
    relation: Relation
    table: Name
    column: Name
    row: Name
    baseline: Name | None = None
    other: Name | None = None  # of saving_ratio
    published: float
    provenance: Provenance
    at_least: bool = False  # else about: more is as wrong as less
    tolerance_percent: Annotated[float, Field(gt=0)] = 5.0  # of the published value

    @model_validator(mode="after")
    def _rows(self) -> "Claim":
        needs = {
            "baseline": self.relation is not Relation.TRAINABLE_PARAMETERS,
            "other": self.relation is Relation.SAVING_RATIO,
        }
        for name, needed in needs.items():
            if needed is not (getattr(self, name) is not None):
                verb = "needs" if needed else "takes no"
                raise ValueError(f"{self.relation} {verb} {name}")
        return self


class Drawing(Frozen):
    """A figure of ours, drawn from one column of one table."""

    name: Name
    kind: Literal["scores", "bars", "sweep"]
    table: Name
    column: Name
    title: Text
    score: Text = "published average"  # the axis of kind "scores"


class Paper(Frozen):
    """A paper: what to run, and what it printed."""

    title: Text
    source: Text
    url: Text
    setting: Text  # in which the paper measured
    memory_unit: Literal["1000 MiB", "GiB", "GB"]
    emulate: str | None = None  # the paper's era of PyTorch
    provenance: dict[Provenance, Text] = Field(
        default_factory=dict
    )  # what each means for this paper
    note: Text | None = None
    tables: Annotated[tuple[PaperTable, ...], Field(min_length=1)]
    claims: tuple[Claim, ...] = ()
    drawings: tuple[Drawing, ...] = ()

    @property
    def unit_bytes(self) -> int:
        """Bytes in one of the paper's units of memory."""
        return UNIT_BYTES[self.memory_unit]

    @field_validator("emulate")
    @classmethod
    def _is_an_era(cls, name: str | None) -> str | None:
        if name is not None and name not in ERAS:
            raise ValueError(f"{name!r} is not one of {', '.join(ERAS)}")
        return name

    @model_validator(mode="after")
    def _names(self) -> "Paper":
        _unique("tables", (table.name for table in self.tables))
        _unique("drawings", (drawing.name for drawing in self.drawings))
        tables = {table.name: table for table in self.tables}
        for kind, each in [("claim", c) for c in self.claims] + [
            ("drawing", d) for d in self.drawings
        ]:
            table = tables.get(each.table)
            if table is None:
                raise ValueError(f"{kind}: no table {each.table!r}; there are: {', '.join(tables)}")
            _known(kind, "column", each.column, (column.name for column in table.columns))
        for claim in self.claims:
            rows = [row.name for row in tables[claim.table].rows]
            for name in (claim.row, claim.baseline, claim.other):
                if name is not None:
                    _known("claim", "row", name, rows)
        return self


def _unique(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{what}: {twice[0]!r} is there twice")


def _known(kind: str, what: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        raise ValueError(f"{kind}: no {what} {name!r}; there are: {', '.join(names)}")
