"""Tables as Markdown and LaTeX: the same walk, once a format."""

import re
from collections.abc import Iterable

from petl_bench.tables.table import Table


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
