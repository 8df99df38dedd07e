"""A reproduction as one HTML page that opens offline."""

import io
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment as Templates
from jinja2 import StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from petl_bench.papers.figures import draw_all
from petl_bench.papers.reproduction import Reproduction
from petl_bench.papers.tables import (
    claims,
    column_tables,
    headers,
    headline,
    not_runnable,
    provenances,
    score_tables,
)


def write_page(found: Reproduction, path: Path, *, command: str) -> None:
    """Write the page of `found`, got with `command`, to `path`."""
    path.write_text(_render(found, command), encoding="utf-8")


def _render(found: Reproduction, command: str) -> str:
    templates = Templates(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    places = sorted(
        {(r.origin.value, r.environment.place, r.environment.torch) for r in found.records}
    )
    return templates.from_string(_asset("petl_bench.papers", "page.html.jinja")).render(
        paper=found.paper,
        headline=headline(found),
        claims=claims(found),
        drawings=[(drawing.title, _svg(figure)) for drawing, figure in draw_all(found)],
        tables=[*column_tables(found), *score_tables(found)],
        missing=not_runnable(found),
        provenances=provenances(found),
        places=places,
        ours=list(headers(found).values()),
        command=command,
        css=Markup(_asset("petl_bench.report", "report.css")),  # noqa: S704 - our own file
    )


def _svg(figure: Figure) -> Markup:
    """The figure as an svg element, without the XML prolog that HTML has no use for."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "petl-bench"}):  # else element ids are drawn at random
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    return Markup(drawn[drawn.index("<svg") :])  # noqa: S704 - matplotlib escapes its text


def _asset(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")
