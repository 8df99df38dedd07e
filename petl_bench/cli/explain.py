"""petl-bench explain: what lives at the peak."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
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
    from petl_bench.explanation import Difference, Explanation, Kind, StepTimeline
    from petl_bench.suite import PlannedCase
    from petl_bench.tables import Cell, Table

SMALLEST_BRANCH = 0.01  # of the peak; smaller modules are left out of the tree


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

    first, *others = [found for found, _ in explained]
    headline = difference(first, others[0]).summary if others else first.headline
    with writing("html", page):
        write_explanation(
            explained, page, headline=headline, setting=_setting(first), command=command_line()
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
    tables = [_view(found, View.CATEGORY, top=None)]
    if by is View.TENSOR:
        tables.append(_kinds(found, top))
    elif by is not View.CATEGORY:
        tables.append(_view(found, by, top))
    _print(found.headline, found, [*tables, _tree(found)])


def _tell_apart(
    first: "Explanation", second: "Explanation", difference: "Difference", by: View, top: int
) -> None:
    always = (View.CATEGORY, View.PART)
    tables = [_shifts(first, second, view, top=None) for view in always]
    if by is View.TENSOR:
        tables.append(_changes(difference, top))
    elif by not in always:
        tables.append(_shifts(first, second, by, top))
    _print(difference.summary, first, tables)


def _print(sentence: str, found: "Explanation", tables: Iterable["Table"]) -> None:
    from petl_bench.tables import to_rich

    console = stdout()
    console.print(sentence, markup=False, highlight=False)
    console.print(_setting(found), style="dim", markup=False, highlight=False)
    for table in tables:
        console.print()
        console.print(to_rich(table))


def _setting(found: "Explanation") -> str:
    """Backbone, workload and place in one line, as above the tables of `run`."""
    from petl_bench.record import Origin, place_name
    from petl_bench.tables import Group

    return Group(
        origin=Origin.SIMULATED,
        device=place_name(found.device, found.emulates),
        backbone=found.case.backbone,
        workload=found.case.workload,
        records=(),
    ).title


# --- tables -------------------------------------------------------------------------------------


def _view(found: "Explanation", by: View, top: int | None) -> "Table":
    """The largest by one of the explanation's views."""
    sizes = list(_sizes(found, by).items())
    rows = [[_size(size), _share(size, found), _text(what)] for what, size in sizes[:top]]
    return _table(f"By {by}", ["allocated", "share", by], rows, _left_out(sizes, top))


def _kinds(found: "Explanation", top: int) -> "Table":
    """The largest tensors; those that differ in their layer alone share two lines."""
    from petl_bench.explanation import kind, totals
    from petl_bench.tables import Cell

    sizes = list(totals(found.tensors, kind).items())
    counts = Counter(map(kind, found.tensors))
    rows = []
    for what, size in sizes[:top]:
        count = Cell(text=f"{counts[what]:,}", number=counts[what])
        numbers = [_size(size), _share(size, found), count]
        rows.append([*numbers, _text(what.category), _text(what.module)])
        # Below the module, not beside it: a terminal has no room for three long columns.
        rows.append([Cell(text="")] * 4 + [_text(f"  {_origin(what)}")])
    headers = ["allocated", "share", "tensors", "category", "module"]
    return _table("By tensor", headers, rows, _left_out(sizes, top))


def _origin(what: "Kind") -> str:
    made = f"{what.operator} at {what.source}" if what.source else what.operator
    return f"{made}, in backward" if what.in_backward else made


def _tree(found: "Explanation") -> "Table":
    """Modules below the ones that they are part of."""
    from petl_bench.explanation import module_tree

    smallest = round(SMALLEST_BRANCH * found.peak_allocated_bytes)
    rows = [
        [
            _size(branch.allocated_bytes),
            _share(branch.allocated_bytes, found),
            _text("  " * branch.depth + branch.steps),
        ]
        for branch in module_tree(found.by_module, smallest)
    ]
    caption = f"Each with all that it is made of; below {SMALLEST_BRANCH:.0%} is left out."
    return _table("Module tree", ["allocated", "share", "module"], rows, caption)


def _shifts(first: "Explanation", second: "Explanation", by: View, top: int | None) -> "Table":
    """Where two explanations differ most by one of their views."""
    before, after = _sizes(first, by), _sizes(second, by)
    moved = {what: before.get(what, 0) - after.get(what, 0) for what in {**before, **after}}
    largest = sorted(moved, key=lambda what: (-abs(moved[what]), what))
    rows = [
        [
            _size(moved[what], signed=True),
            _size(before.get(what, 0)),
            _size(after.get(what, 0)),
            _text(what),
        ]
        for what in largest[:top]
    ]
    headers = ["difference", first.label, second.label, by.value]
    return _table(f"By {by}", headers, rows, _left_out(largest, top))


def _changes(difference: "Difference", top: int) -> "Table":
    """The largest changes, either way."""
    rows = [
        [
            _size(change.allocated_bytes, signed=True),
            _text(change.category),
            _text(change.module),
            _text(change.operator),
        ]
        for change in difference.changes[:top]
    ]
    title = f"{difference.first} beyond {difference.second}"
    headers = ["difference", "category", "module", "operator"]
    return _table(title, headers, rows, _left_out(difference.changes, top))


def _sizes(found: "Explanation", by: View) -> dict[str, int]:
    from petl_bench.explanation import part, totals

    views: dict[View, Mapping[Any, int]] = {
        View.CATEGORY: found.by_category,
        View.PART: totals(found.tensors, part),
        View.MODULE: found.by_module,
        View.OPERATOR: found.by_operator,
        View.SOURCE: found.by_source,
    }
    return dict(views[by])


def _table(
    title: str, headers: Sequence[str], rows: Sequence[Sequence["Cell"]], caption: str
) -> "Table":
    """A table whose columns of numbers keep to the right."""
    from petl_bench.tables import Column, Table

    numbers = [cell.number is not None for cell in rows[0]] if rows else [False] * len(headers)
    columns = tuple(
        Column(header=header, align="right" if number else "left")
        for header, number in zip(headers, numbers, strict=True)
    )
    return Table(title=title, caption=caption, columns=columns, rows=tuple(map(tuple, rows)))


def _left_out(found: Sized, top: int | None) -> str:
    more = len(found) - top if top is not None else 0
    return f"and {more:,} more" if more > 0 else ""


def _text(text: str) -> "Cell":
    from petl_bench.tables import ABSENT, Cell

    return Cell(text=text or ABSENT)


def _size(size: int, *, signed: bool = False) -> "Cell":
    from petl_bench.tables import Cell
    from petl_bench.units import format_bytes

    plus = "+" if signed and size > 0 else ""
    return Cell(text=plus + format_bytes(size), number=size)


def _share(size: int, found: "Explanation") -> "Cell":
    from petl_bench.tables import Cell, percent

    share = 100 * size / found.peak_allocated_bytes
    return Cell(text=percent(share), number=share)
