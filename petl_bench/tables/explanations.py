"""What `explain` found as tables for people."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

from petl_bench.explanation import Difference, Explanation, Kind, kind, module_tree, part, totals
from petl_bench.record import Origin, place_name
from petl_bench.tables.groups import Group
from petl_bench.tables.summaries import percent
from petl_bench.tables.table import ABSENT, Cell, Column, Table
from petl_bench.units import format_bytes

_SMALLEST_BRANCH = 0.01  # of the peak; smaller modules are left out of the tree

_VIEWS: dict[str, Callable[[Explanation], Mapping[Any, int]]] = {
    "category": lambda found: found.by_category,
    "part": lambda found: totals(found.tensors, part),
    "module": lambda found: found.by_module,
    "operator": lambda found: found.by_operator,
    "source": lambda found: found.by_source,
}
"""Bytes at the peak, by what tells them apart."""


def setting(found: Explanation) -> str:
    """Backbone, workload and place in one line, as above the tables of `run`."""
    return Group(
        origin=Origin.SIMULATED,
        device=place_name(found.device, found.emulates),
        backbone=found.case.backbone,
        workload=found.case.workload,
        records=(),
    ).title


def largest(found: Explanation, by: str, top: int | None) -> Table:
    """The largest by one of the explanation's views."""
    sizes = list(_VIEWS[by](found).items())
    rows = [[_size(size), _share(size, found), _text(what)] for what, size in sizes[:top]]
    return _table(f"By {by}", ["allocated", "share", by], rows, _left_out(sizes, top))


def largest_tensors(found: Explanation, top: int) -> Table:
    """The largest tensors; those that differ in their layer alone share two lines."""
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


def _origin(what: Kind) -> str:
    made = f"{what.operator} at {what.source}" if what.source else what.operator
    return f"{made}, in backward" if what.in_backward else made


def tree(found: Explanation) -> Table:
    """Modules below the ones that they are part of."""
    smallest = round(_SMALLEST_BRANCH * found.peak_allocated_bytes)
    rows = [
        [
            _size(branch.allocated_bytes),
            _share(branch.allocated_bytes, found),
            _text("  " * branch.depth + branch.steps),
        ]
        for branch in module_tree(found.by_module, smallest)
    ]
    caption = f"Each with all that it is made of; below {_SMALLEST_BRANCH:.0%} is left out."
    return _table("Module tree", ["allocated", "share", "module"], rows, caption)


def shifts(first: Explanation, second: Explanation, by: str, top: int | None) -> Table:
    """Where two explanations differ most by one of their views."""
    before, after = _VIEWS[by](first), _VIEWS[by](second)
    moved = {what: before.get(what, 0) - after.get(what, 0) for what in {**before, **after}}
    ordered = sorted(moved, key=lambda what: (-abs(moved[what]), what))
    rows = [
        [
            _size(moved[what], signed=True),
            _size(before.get(what, 0)),
            _size(after.get(what, 0)),
            _text(what),
        ]
        for what in ordered[:top]
    ]
    headers = ["difference", first.label, second.label, by]
    return _table(f"By {by}", headers, rows, _left_out(ordered, top))


def changes(difference: Difference, top: int) -> Table:
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


def _table(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str
) -> Table:
    """A table whose columns of numbers keep to the right."""
    numbers = [cell.number is not None for cell in rows[0]] if rows else [False] * len(headers)
    columns = tuple(
        Column(header=header, align="right" if number else "left")
        for header, number in zip(headers, numbers, strict=True)
    )
    return Table(title=title, caption=caption, columns=columns, rows=tuple(map(tuple, rows)))


def _left_out(found: Sized, top: int | None) -> str:
    more = len(found) - top if top is not None else 0
    return f"and {more:,} more" if more > 0 else ""


def _text(text: str) -> Cell:

    return Cell(text=text or ABSENT)


def _size(size: int, *, signed: bool = False) -> Cell:

    plus = "+" if signed and size > 0 else ""
    return Cell(text=plus + format_bytes(size), number=size)


def _share(size: int, found: Explanation) -> Cell:

    share = 100 * size / found.peak_allocated_bytes
    return Cell(text=percent(share), number=share)
