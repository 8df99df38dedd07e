"""petl-bench explain: what lives at the peak."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petl_bench.cards import DEFAULT_CARD
from petl_bench.cli import options
from petl_bench.cli.misfits import check_one_workload
from petl_bench.cli.output import command_line, stdout, writing

if TYPE_CHECKING:
    from petl_bench.explanation import Difference, Explanation, StepTimeline
    from petl_bench.suite import PlannedCase
    from petl_bench.tables import Table


class View(StrEnum):
    """What rows may tell apart."""

    TENSOR = "tensor"
    PART = "part"
    MODULE = "module"
    CATEGORY = "category"
    OPERATOR = "operator"
    SOURCE = "source"


@options.with_case_options
def explain(
    *,
    method: Annotated[str, typer.Argument(help="A method, such as lst or lora[r=8].")],
    against: Annotated[
        str | None, options.option("Another method: tell what sets the two apart.", "none")
    ] = None,
    case: options.CaseOptions,
    gpu: options.Gpu = None,
    emulate: options.Emulate = None,
    by: Annotated[View, typer.Option(help="What the largest rows tell apart.")] = View.TENSOR,
    top: Annotated[int, typer.Option(min=1, help="How many of them to print.")] = 15,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead, with every tensor.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page, too: the step's timeline, tensor by tensor."),
    ] = None,
) -> None:
    """Tell what lives at the peak, and what made it."""
    from petl_bench import cards

    options.check_era(emulate)
    card = cards.find(gpu or DEFAULT_CARD)
    cells = [_planned(spec, case.axes()) for spec in (method, against) if spec is not None]

    from petl_bench.explain import explain_step
    from petl_bench.explanation import Comparison, difference
    from petl_bench.profilers.simulated.era import ERAS

    with _quiet():
        explained = [
            explain_step(cell.case, card, ERAS[emulate], label=cell.label) for cell in cells
        ]
    first, *others = [found for found, _ in explained]
    if page is not None:
        _write_page(explained, page)
    if not others:
        _print_json(first) if as_json else _tell(first, by, top)
        return
    apart = difference(first, others[0])
    if as_json:
        _print_json(Comparison(first=first, second=others[0], difference=apart))
    else:
        _tell_apart(first, others[0], apart, by, top)


def _write_page(explained: "Sequence[tuple[Explanation, StepTimeline]]", page: Path) -> None:
    from petl_bench.explanation import difference
    from petl_bench.report.explanation import write_explanation
    from petl_bench.tables.explanations import setting

    first, *others = [found for found, _ in explained]
    headline = difference(first, others[0]).summary if others else first.headline
    with writing("html", page):
        write_explanation(
            explained, page, headline=headline, setting=setting(first), command=command_line()
        )
    print(f"page: {page}", file=sys.stderr)


def _planned(spec: str, axes: Mapping[str, Mapping[str, Any]]) -> "PlannedCase":
    """The one case that `spec` asks for."""
    from petl_bench.errors import UsageError
    from petl_bench.method_spec import parse_specs
    from petl_bench.suite import Suite

    labels = [label for label, _ in parse_specs(spec)]
    if len(labels) > 1:
        raise UsageError(f"explain: takes one method at a time, {spec!r} is {len(labels)}")
    suite = Suite(methods=(spec,), **axes)
    plan = suite.asked_for(suite.plan())
    check_one_workload("explain", plan)
    (cell,) = plan
    return cell


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries' prints go to stderr, their warnings nowhere: stdout is the answer alone."""
    import warnings
    from contextlib import redirect_stdout

    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _print_json(answer: Any) -> None:
    sys.stdout.write(answer.model_dump_json() + "\n")


def _tell(found: "Explanation", by: View, top: int) -> None:
    from petl_bench.tables.explanations import largest, largest_tensors, tree

    tables = [largest(found, View.CATEGORY, top=None)]
    if by is View.TENSOR:
        tables.append(largest_tensors(found, top))
    elif by is not View.CATEGORY:
        tables.append(largest(found, by, top))
    _print(found.headline, found, [*tables, tree(found)])


def _tell_apart(
    first: "Explanation", second: "Explanation", difference: "Difference", by: View, top: int
) -> None:
    from petl_bench.tables.explanations import changes, shifts

    always = (View.CATEGORY, View.PART)
    tables = [shifts(first, second, view, top=None) for view in always]
    if by is View.TENSOR:
        tables.append(changes(difference, top))
    elif by not in always:
        tables.append(shifts(first, second, by, top))
    _print(difference.summary, first, tables)


def _print(sentence: str, found: "Explanation", tables: Iterable["Table"]) -> None:
    from petl_bench.tables import to_rich
    from petl_bench.tables.explanations import setting

    console = stdout()
    console.print(sentence, markup=False, highlight=False)
    console.print(setting(found), style="dim", markup=False, highlight=False)
    for table in tables:
        console.print()
        console.print(to_rich(table))
