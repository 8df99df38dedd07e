"""A table for people: every number is already text, and a dash where there is none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

from petl_bench.record import Status

ABSENT = "-"

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column's header, and the side its text keeps to."""

    header: str
    align: Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell's text, and what stands behind it."""

    text: str
    number: int | float | None = None  # to sort by; None for text and for absent numbers
    status: Status | None = None  # to colour by; None outside the status column

    @classmethod
    def of(cls, number: Number | None, text: Callable[[Number], str]) -> Self:
        """`number` as `text` writes it; a dash for None."""
        return cls(text=ABSENT if number is None else text(number), number=number)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table ready to print: every number is already text."""

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
