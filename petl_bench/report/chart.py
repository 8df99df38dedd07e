"""What the report's charts share: plotly figures in plain JSON values.

They show the values of `series`. Colours of text and grid are left to the page, which follows the
reader's light or dark theme. plotly reads tags in its text, so every label is escaped.
"""

import html
from collections.abc import Sequence
from typing import Any

from petl_bench.record import Category

Chart = dict[str, Any]
"""A plotly figure: its traces under "data", its axes and titles under "layout"."""

UNATTRIBUTED = "unattributed"


def legend(charts: Sequence[Chart]) -> list[tuple[str, str]]:
    """Every category that `charts` show, in stacking order: its name, and what the page calls it.

    The page writes it: plotly's own takes the chart's room on a phone.
    """
    metas = [trace.get("meta") for chart in charts for trace in chart["data"]]
    shown = {meta["band"] if isinstance(meta, dict) else meta for meta in metas}
    return [(category_name(each), each) for each in (*Category, UNATTRIBUTED) if each in shown]


def category_name(category: str) -> str:
    """A category in words."""
    return "not told apart" if category == UNATTRIBUTED else category.replace("_", " ")


def plain(text: str) -> str:
    """A label as plotly takes it, without tags."""
    return html.escape(text, quote=False)
