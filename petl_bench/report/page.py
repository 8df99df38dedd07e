"""What every page is made with: templates, assets inlined, and a file written whole."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from petl_bench.palette import CATEGORIES_DARK, CATEGORIES_LIGHT, DARK, LIGHT, UNATTRIBUTED
from petl_bench.tables import pieces


def render(template: str, **values: Any) -> str:
    """A page of `template`, self-contained; every string in `values` is escaped."""
    templates = Templates(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["breakable"] = _breakable
    return templates.get_template(template).render(
        css=Markup(_asset("report.css") + _palette()),  # noqa: S704 - our own, no one's input
        js=Markup(_asset("labels.js") + _asset("report.js")),  # noqa: S704 - our own files
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - plotly's own file
        **values,
    )


def write_whole(text: str, path: Path) -> None:
    """Write `text` to `path`: all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _breakable(label: str) -> Markup:
    """`label`, escaped, which may be broken after punctuation before it is within a word."""
    return Markup("<wbr>").join(pieces(label))  # join escapes


def _palette() -> str:
    """The palette as variables of the style sheet, for either theme: --series0, --activation."""
    light, dark = (
        "".join(
            f"--{name}:{colour};"
            for name, colour in (
                *((f"series{number}", colour) for number, colour in enumerate(series)),
                *categories.items(),
                ("unattributed", UNATTRIBUTED),
            )
        )
        for series, categories in ((LIGHT, CATEGORIES_LIGHT), (DARK, CATEGORIES_DARK))
    )
    return f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
