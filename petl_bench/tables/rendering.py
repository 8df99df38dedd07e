"""Tables as Markdown, LaTeX and for a terminal: the same walk, once a format."""

import re
import textwrap
from collections.abc import Iterable

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from petl_bench.record import Status
from petl_bench.tables.table import Cell, Table

_RICH_STYLES = {
    Status.OK: "green",
    Status.OOM: "bold red",
    Status.ERROR: "bold red",
    Status.SKIPPED: "yellow",
}


_RICH_HEADER_WIDTH = 10  # characters; a header must not make a column of numbers wider


def to_markdown(table: Table) -> str:
    """`table` as GitHub-flavoured Markdown, title above and caption below."""
    rules = {"left": ":---", "right": "---:"}
    lines = [
        _markdown_line(column.header for column in table.columns),
        "| " + " | ".join(rules[column.align] for column in table.columns) + " |",
        *(_markdown_line(cell.text for cell in row) for row in table.rows),
    ]
    title, caption = markdown_text(table.title), markdown_text(table.caption)
    return "\n".join([f"**{title}**", "", *lines, "", caption, ""])


def _markdown_line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(markdown_text(text) for text in texts) + " |"


def markdown_text(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would read."""
    return re.sub(r"([\\|*`<])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def to_latex(table: Table) -> str:
    """`table` as a LaTeX table, for the booktabs package; its caption is title and caption."""
    sides = {"left": "l", "right": "r"}
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(table.title)}. {_latex_text(table.caption)}}}",
        rf"\begin{{tabular}}{{{''.join(sides[column.align] for column in table.columns)}}}",
        r"\toprule",
        _latex_line(column.header for column in table.columns),
        r"\midrule",
        *(_latex_line(cell.text for cell in row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _latex_line(texts: Iterable[str]) -> str:
    return " & ".join(_latex_text(text) for text in texts) + r" \\"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def to_rich(table: Table) -> RichTable:
    """`table` for a terminal: numbers to the right, the status in colour, reasons below."""
    # Everything goes in as Text: rich would take the brackets of a label in a str for markup.
    rich = RichTable(
        title=Text(table.title, style="bold"),
        caption=Text("\n").join([*_rich_reasons(table), Text(table.caption, style="dim")]),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in table.columns:
        header = "\n".join(textwrap.wrap(column.header, _RICH_HEADER_WIDTH))
        # Fold: a narrow terminal breaks lines, and never hides digits behind an ellipsis.
        rich.add_column(Text(header), justify=column.align, overflow="fold", vertical="bottom")
    for row in table.rows:
        rich.add_row(*(_rich_text(cell) for cell in row))
    return rich


def _rich_text(cell: Cell) -> Text:
    if cell.status is None:
        return Text(cell.text)
    return Text(cell.text.partition(":")[0], style=_RICH_STYLES[cell.status])


def _rich_reasons(table: Table) -> list[Text]:
    # In a row of their own width: a terminal has no room for a sentence in a column.
    return [
        Text(f"{row[0].text}: {cell.text}", style=_RICH_STYLES[cell.status])
        for row in table.rows
        for cell in row
        if cell.status not in (None, Status.OK)
    ]
