"""A reproduction as tables for people and as one CSV for programs."""

from collections.abc import Sequence

import pandas as pd

from petl_bench.papers.reproduction import PERCENTS, Cell, Place, Reproduction, Verdict
from petl_bench.papers.schema import Column as PaperColumn
from petl_bench.papers.schema import Quantity, Relation
from petl_bench.record import Status
from petl_bench.tables import ABSENT, Column, Table, to_markdown
from petl_bench.tables import Cell as Text

NOT_RUNNABLE = "not runnable here"
_PERCENT = frozenset({Relation.SAVING_PERCENT})
_RATIO = frozenset({Relation.SAVING_RATIO, Relation.MEMORY_RATIO, Relation.SPEED_RATIO})


def headers(found: Reproduction) -> dict[Place, str]:
    """What the columns of ours are called, those alone that there are."""
    names = {
        Place.EMULATED: f"simulated as {found.paper.emulate}",
        Place.TODAY: "simulated today",
        Place.MEASURED: "measured",
    }
    return {place: names[place] for place in found.places}


def headline(found: Reproduction) -> str:
    """How the paper's claims fare, in one sentence."""
    verdicts = found.verdicts()
    counts = []
    for place, name in headers(found).items():
        checked = [verdict for verdict in verdicts if place in verdict.ours]
        if checked:
            standing = sum(verdict.stands(place) for verdict in checked)
            counts.append(f"{standing} of {len(checked)} {name}")
    if not counts:
        return "No claim could be checked here."
    left = sum(not verdict.ours for verdict in verdicts)
    more = f"; {left} could not be checked here" if left else ""
    return f"Claims that stand on our own numbers: {', '.join(counts)}{more}."


def claims(found: Reproduction) -> Table | None:
    """The paper's claims beside the same numbers from ours; None if it makes none of these rows."""
    verdicts = found.verdicts()
    if not verdicts:
        return None
    ours = headers(found)
    columns = [
        Column(header="claim", align="left"),
        Column(header="published", align="right"),
        Column(header="provenance", align="left"),
        *(Column(header=name, align="right") for name in ours.values()),
        Column(header="verdict", align="left"),
    ]
    rows = []
    for verdict in verdicts:
        claim = verdict.claim
        values = [
            _text(_of_claim(verdict, verdict.ours[place]), verdict.ours[place])
            if place in verdict.ours
            else _text(ABSENT)
            for place in ours
        ]
        published = _text(_of_claim(verdict, claim.published, printed=True), claim.published)
        shown = [_text(claim.text), published, _text(claim.provenance), *values]
        rows.append((*shown, _verdict(verdict, ours)))
    speeds = any(claim.relation is Relation.SPEED_RATIO for claim in found.paper.claims)
    within = sorted({claim.tolerance_percent for claim in found.paper.claims})
    caption = (
        f"Recomputed from our own numbers alone. A claim stands within"
        f" {' or '.join(f'{percent:g}' for percent in within)} % of its number, or better where it"
        " says at least so much."
    )
    if speeds:
        caption += " Simulated speeds are roofline estimates, not measurements."
    return Table(title="Claims", caption=caption, columns=tuple(columns), rows=tuple(rows))


def column_tables(found: Reproduction, *, printed: bool = False) -> list[Table]:
    """A table for every column of the paper's tables; with `printed`, where it has values."""
    return [
        _column_table(found, cells)
        for cells in _by_column(found)
        if not (printed and all(cell.published is None for cell in cells))
    ]


def score_tables(found: Reproduction) -> list[Table]:
    """The scores that the paper printed, a table each; ours has none to set beside them."""
    tables = []
    for table in found.paper.tables:
        rows = [row for row in table.rows if row.scores]
        if not rows:
            continue
        names = list(dict.fromkeys(name for row in rows for name in row.scores))
        averaged = any(row.average is not None for row in rows)
        columns = [Column(header="row", align="left")]
        columns += [Column(header=name, align="right") for name in names]
        columns += [Column(header="average", align="right")] if averaged else []
        cells = [
            (
                _text(row.label),
                *(_score(row.scores.get(name)) for name in names),
                *([_score(row.average)] if averaged else []),
            )
            for row in rows
        ]
        tables.append(
            Table(
                title=f"{table.title}: published scores",
                caption=f"The paper's own ({table.provenance}); no score of ours is here.",
                columns=tuple(columns),
                rows=tuple(cells),
            )
        )
    return tables


def _score(value: float | None) -> Text:
    return _text(ABSENT) if value is None else _text(f"{value:g}", value)


def _by_column(found: Reproduction) -> list[list[Cell]]:
    """The cells of each column of each table, in the paper's order."""
    chosen: dict[tuple[str, str], list[Cell]] = {
        (table.name, column.name): [] for table in found.paper.tables for column in table.columns
    }
    for cell in found.cells:
        chosen[cell.table.name, cell.column.name].append(cell)
    return [cells for cells in chosen.values() if cells]


def not_runnable(found: Reproduction) -> list[tuple[str, str]]:
    """Rows without numbers of ours, and why; those of a column with one reason share a line."""
    return [
        (f"{cells[0].table.title}: {cells[0].column.header} ({', '.join(labels)})", reason)
        for cells in _by_column(found)
        for labels, reason in _refusals(found, cells)
    ]


def to_frame(found: Reproduction) -> pd.DataFrame:
    """One row a cell: published value, provenance, ours from each place, percent differences."""
    rows = []
    for cell in found.cells:
        row: dict[str, object] = {
            "table": cell.table.name,
            "row": cell.row.name,
            "column": cell.column.name,
            "label": cell.row.label,
            "method": cell.row.method,
            "unit": _unit(found, cell.column),
            "published": cell.published,
            "provenance": cell.table.provenance_of(cell.row, cell.column),
            "published_average": cell.row.average,
        }
        for place in Place:
            record = found.record(cell, place)
            seen = record.measurement if record else None
            row[place] = found.value(cell, place)
            row[f"{place}_difference"] = found.difference(cell, place)
            row[f"{place}_peak_allocated_bytes"] = seen.peak_allocated_bytes if seen else None
            row[f"{place}_device"] = record.environment.device if record else None
        row["refusal"] = found.refusal(cell)
        row["case_id"] = cell.planned.case.case_id if cell.planned else None
        rows.append(row)
    frame = pd.DataFrame(rows)
    integers = [name for name in frame.columns if name.endswith("_bytes")]
    return frame.astype(dict.fromkeys(integers, "Int64"))


def to_page(found: Reproduction, command: str) -> str:
    """All tables as one Markdown document."""
    paper = found.paper
    parts = [f"# {paper.title}", f"{paper.source}, {paper.url}. {headline(found)}"]
    parts += [f"Paper: {paper.setting}", *filter(None, [paper.note])]
    parts += [f"`{command}`", _provenance_list(found)]
    summary = claims(found)
    tables = [*([summary] if summary else []), *column_tables(found), *score_tables(found)]
    parts += map(to_markdown, tables)
    missing = not_runnable(found)
    if missing:
        lines = [f"- {what}: {reason}" for what, reason in missing]
        parts.append("\n".join([f"**{NOT_RUNNABLE.capitalize()}**", "", *lines]))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def provenances(found: Reproduction) -> list[tuple[str, str]]:
    """What each provenance that occurs means."""
    return [(each.value, text) for each, text in found.paper.provenance.items()]


def _provenance_list(found: Reproduction) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in provenances(found))


def _column_table(found: Reproduction, chosen: Sequence[Cell]) -> Table:
    table, column = chosen[0].table, chosen[0].column
    printed = any(cell.published is not None for cell in chosen)
    refused = any(found.refusal(cell) for cell in chosen)
    ours = _places(found, chosen)
    columns = [Column(header="row", align="left"), Column(header="method", align="left")]
    if printed:
        columns.append(Column(header="published", align="right"))
        columns.append(Column(header="provenance", align="left"))
    for name in ours.values():
        columns.append(Column(header=name, align="right"))
        if printed:
            columns.append(Column(header="difference", align="right"))
    if refused:
        columns.append(Column(header="status", align="left"))
    decimals = decimals_of(chosen)
    rows = []
    for cell in chosen:
        shown = [_text(cell.row.label), _text(cell.row.method)]
        if printed:
            text = ABSENT if cell.published is None else f"{cell.published:,.{decimals}f}"
            shown.append(_text(text, cell.published))
            shown.append(_text(table.provenance_of(cell.row, column) or ABSENT))
        for place in ours:
            value, apart = found.value(cell, place), found.difference(cell, place)
            shown.append(_text(ABSENT if value is None else _ours(value, column), value))
            if printed:
                shown.append(_text(ABSENT if apart is None else _apart(apart, column), apart))
        if refused:
            shown.append(_text(NOT_RUNNABLE if found.refusal(cell) else Status.OK))
        rows.append(tuple(shown))
    return Table(
        title=f"{table.title}: {column.header}",
        caption=_caption(found, chosen),
        columns=tuple(columns),
        rows=tuple(rows),
    )


def _places(found: Reproduction, chosen: Sequence[Cell]) -> dict[Place, str]:
    """The places that any of `chosen` has a number from; a count is the same in all."""
    present = {
        place: name
        for place, name in headers(found).items()
        if any(found.value(cell, place) is not None for cell in chosen)
    }
    if chosen[0].column.quantity is Quantity.PEAK_MEMORY:
        return present
    return dict.fromkeys(list(present)[:1], "ours")


def _caption(found: Reproduction, chosen: Sequence[Cell]) -> str:
    table, column = chosen[0].table, chosen[0].column
    cases = [cell.planned.case for cell in chosen if cell.planned is not None]
    parts = [f"Unit: {_unit(found, column)}."]
    if len({case.workload.model_dump_json() for case in cases}) == 1:
        load = cases[0].workload
        target = load.target_length_tokens
        of_target = "" if target is None else f", target {target}"
        lengths = f"source {load.source_length_tokens}{of_target} tokens"
        parts.append(f"Batch {load.batch_size}, {lengths}.")
    parts += filter(None, [table.note, column.note])
    if column.quantity is Quantity.PEAK_MEMORY:
        parts += [f"{cell.row.label}: {cell.row.note}." for cell in chosen if cell.row.note]
    parts += [
        f"{NOT_RUNNABLE.capitalize()}: {', '.join(labels)}: {reason.rstrip('.?')}."
        for labels, reason in _refusals(found, chosen)
    ]
    return " ".join(parts)


def _refusals(found: Reproduction, chosen: Sequence[Cell]) -> list[tuple[list[str], str]]:
    """Why rows have no numbers, those with one reason together."""
    labels: dict[str, list[str]] = {}
    for cell in chosen:
        refusal = found.refusal(cell)
        if refusal is not None:
            labels.setdefault(refusal, []).append(cell.row.label)
    return [(names, reason) for reason, names in labels.items()]


def _unit(found: Reproduction, column: PaperColumn) -> str:
    return {
        Quantity.PEAK_MEMORY: found.paper.memory_unit,
        Quantity.UPDATED_PERCENT: "% of the backbone's parameters; differences in points",
        Quantity.UPDATED_PERCENT_OF_ALL: "% of all parameters, added ones included; differences in"
        " points",
        Quantity.TRAINABLE_PARAMETERS: "parameters",
    }[column.quantity]


def _ours(value: float, column: PaperColumn) -> str:
    if column.quantity is Quantity.TRAINABLE_PARAMETERS:
        return f"{round(value):,}"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def decimals_of(cells: Sequence[Cell]) -> int:
    """Digits after the point that the cells' published values were printed with."""
    least = int(any(cell.column.quantity is Quantity.PEAK_MEMORY for cell in cells))
    printed = (f"{cell.published or 0:.4f}".rstrip("0") for cell in cells)
    return max(least, *(len(text.partition(".")[2]) for text in printed))


def _apart(value: float, column: PaperColumn) -> str:
    if column.quantity in PERCENTS:
        return f"{_rounded(value, 3):+.3f}"
    return signed(value)


def signed(percent: float) -> str:
    """`percent` with its sign and one decimal."""
    return f"{_rounded(percent, 1):+.1f} %"


def _rounded(value: float, digits: int) -> float:
    """`value` rounded; what is nothing then has no minus sign."""
    return round(value, digits) + 0.0


def _of_claim(verdict: Verdict, value: float, *, printed: bool = False) -> str:
    relation = verdict.claim.relation
    if relation in _PERCENT:
        return f"{value:g} %" if printed else f"{value:.1f} %"
    if relation in _RATIO:
        return f"{value:g}x" if printed else f"{value:.2f}x"
    return f"{round(value):,}"


def _verdict(verdict: Verdict, ours: dict[Place, str]) -> Text:
    if not verdict.ours:
        return Text(text=f"{NOT_RUNNABLE}: its rows have no numbers", status=Status.SKIPPED)
    standing = [
        name for place, name in ours.items() if place in verdict.ours and verdict.stands(place)
    ]
    falling = [
        f"{name}, by {signed(verdict.difference(place))}"
        for place, name in ours.items()
        if place in verdict.ours and not verdict.stands(place)
    ]
    if not falling:
        return Text(text="stands", status=Status.OK)
    if not standing:
        return Text(text=f"falls: {'; '.join(falling)}", status=Status.ERROR)
    return Text(
        text=f"stands {' and '.join(standing)}; falls {'; '.join(falling)}", status=Status.SKIPPED
    )


def _text(text: str, number: float | None = None) -> Text:
    return Text(text=text, number=number)
