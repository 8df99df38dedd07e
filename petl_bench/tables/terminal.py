"""Tables for a terminal: in one piece where there is room, else narrower, and no number dropped."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from petl_bench.record import Status
from petl_bench.tables.table import ABSENT, Cell, Column, Table

_STYLES = {
    Status.OK: "green",
    Status.OOM: "bold red",
    Status.ERROR: "bold red",
    Status.SKIPPED: "yellow",
}
_HEADER_WIDTH = 10  # characters; a header must not make a column of numbers wider
_WITH_UNIT = re.compile(r"(\S+) ([KMGT]iB|[BkMGT%])")


def to_rich(table: Table) -> "FittedTable":
    """`table` for a terminal: numbers to the right, the status in colour, reasons below."""
    return FittedTable(table)


@dataclass(frozen=True)
class FittedTable:
    """A table that is printed as wide as it likes to be or, where that is too wide, narrower.

    Then units that a column shares stand in its header, labels are broken after punctuation, and
    columns for which there still is no room follow below, with the labels again.
    """

    table: Table

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width
        table = _with_words_for_endings(self.table)
        yield Text(table.title, style="bold")
        if _width(table, gap=2) <= room:
            yield _drawn(table, gap=2)
        else:
            for part in _parts(_with_units_above(table), room):
                yield _drawn(part, gap=1)
        # In rows of their own: a terminal has no room for a sentence in a column.
        yield from _reasons(self.table)
        if table.caption:
            yield Text(table.caption, style="dim")


def broken(label: str, width: int) -> list[str]:
    """`label` in lines of at most `width` characters, broken after punctuation where it can be."""
    lines = [""]
    for part in pieces(label):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return [piece for line in lines for piece in textwrap.wrap(line, width)]


def pieces(label: str) -> list[str]:
    """`label` in parts that end in punctuation: where it may be broken."""
    return [part for part in re.findall(r"[^\s\[,=_-]*[\s\[,=_-]?", label) if part]


def _with_words_for_endings(table: Table) -> Table:
    """How a case ended in a word; the sentence comes below the table."""
    return replace(
        table,
        rows=tuple(
            tuple(
                cell if cell.status is None else replace(cell, text=cell.text.partition(":")[0])
                for cell in row
            )
            for row in table.rows
        ),
    )


def _with_units_above(table: Table) -> Table:
    """The unit that all numbers of a column have in its header, and not in its cells."""
    columns, cells = [], []
    for column, below in zip(table.columns, zip(*table.rows, strict=True), strict=False):
        found = [_WITH_UNIT.fullmatch(cell.text) for cell in below if cell.text != ABSENT]
        units = {match[2] if match else None for match in found}
        unit = units.pop() if len(units) == 1 and column.align == "right" else None
        if unit is None:
            columns.append(column)
            cells.append(below)
            continue
        named = column.header if unit in column.header.split() else f"{column.header} ({unit})"
        columns.append(replace(column, header=named))
        cells.append(tuple(replace(c, text=c.text.removesuffix(f" {unit}")) for c in below))
    return replace(table, columns=tuple(columns), rows=tuple(zip(*cells, strict=True)))


def _parts(table: Table, room: int) -> Iterator[Table]:
    """The table in as few parts as have room, each with the labels."""
    if len(table.columns) < 2 or not table.rows:  # noqa: PLR2004
        yield table
        return
    widths = [_column_width(table, at, narrow=True) + 1 for at in range(len(table.columns))]
    labels = [table.columns[0].header, *(row[0].text for row in table.rows)]
    longest = max(map(len, labels))
    unbroken = min(
        room // 4, max((len(piece) for label in labels for piece in pieces(label)), default=0)
    )
    kept = room - sum(widths[1:])
    if kept < min(unbroken, longest):
        kept = max(unbroken, room // 3)  # in parts there is room
    kept = min(kept, longest)
    chosen: list[int] = []
    for at in range(1, len(widths)):
        if chosen and kept + sum(widths[each] for each in chosen) + widths[at] > room:
            yield _part(table, chosen, kept)
            chosen = []
        chosen.append(at)
    yield _part(table, chosen, kept)


def _part(table: Table, chosen: Sequence[int], label_width: int) -> Table:
    columns = [
        replace(table.columns[at], header=_narrowed(table.columns[at].header, _widest(table, at)))
        for at in chosen
    ]
    return replace(
        table,
        columns=(table.columns[0], *columns),
        rows=tuple(
            (
                replace(row[0], text="\n".join(broken(row[0].text, label_width))),
                *(row[at] for at in chosen),
            )
            for row in table.rows
        ),
    )


def _narrowed(header: str, width: int) -> str:
    """`header` in as few lines as are no wider than its longest word, or than `width`."""
    longest = max(map(len, header.split()), default=1)
    return "\n".join(textwrap.wrap(header, max(longest, width, 1)))


def _widest(table: Table, at: int) -> int:
    return max((len(row[at].text) for row in table.rows), default=0)


def _column_width(table: Table, at: int, *, narrow: bool) -> int:
    header = table.columns[at].header
    text = _narrowed(header, _widest(table, at)) if narrow else _header(header)
    return max(_widest(table, at), *map(len, text.splitlines()), 0)


def _header(header: str) -> str:
    return header if "\n" in header else "\n".join(textwrap.wrap(header, _HEADER_WIDTH))


def _width(table: Table, *, gap: int) -> int:
    """Characters across, with `gap` between columns."""
    found = [_column_width(table, at, narrow=False) for at in range(len(table.columns))]
    return sum(found) + gap * (len(found) - 1)


def _drawn(table: Table, *, gap: int) -> RichTable:
    # Everything goes in as Text: rich would take the brackets of a label in a str for markup.
    rich = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),  # the box draws a blank between columns, too
    )
    for column in table.columns:
        # Fold: a column wider than any terminal breaks its lines, and hides no digits.
        rich.add_column(
            Text(_shown_header(column, gap)),
            justify=column.align,
            overflow="fold",
            vertical="bottom",
        )
    for row in table.rows:
        rich.add_row(*map(_text, row))
    return rich


def _shown_header(column: Column, gap: int) -> str:
    return column.header if gap == 1 else _header(column.header)


def _text(cell: Cell) -> Text:
    return Text(cell.text, style=_STYLES[cell.status] if cell.status else "")


def _reasons(table: Table) -> Iterator[Text]:
    for row in table.rows:
        for cell in row:
            if cell.status not in (None, Status.OK):
                yield Text(f"{row[0].text}: {cell.text}", style=_STYLES[cell.status])
