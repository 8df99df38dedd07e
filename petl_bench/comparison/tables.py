"""The comparison as one table; every page and terminal shows this one."""

from collections.abc import Sequence

from petl_bench.comparison.fields import FIELDS
from petl_bench.comparison.verdicts import Comparison, Outcome, Verdict
from petl_bench.comparison.words import both_texts, share_text, summary
from petl_bench.tables import ABSENT, Cell, Column, Table

_TEXTS = ("verdict", "case", "field")
_NUMBERS = ("base", "new", "change", "percent")


def table(outcome: Outcome) -> Table:
    """Every case that is not unchanged; if all are, every case."""
    moved = [case for case in outcome.cases if case.verdict is not Verdict.UNCHANGED]
    cases = moved or outcome.cases
    settings = list(dict.fromkeys(case.setting for case in cases))
    rows = [_row(case) for case in cases]
    texts = list(_TEXTS)
    if len(settings) > 1:  # one setting stands in the title alone
        texts.append("setting")
        for row, case in zip(rows, cases, strict=True):
            row.insert(len(_TEXTS), case.setting)
    return Table(
        title=settings[0] if len(settings) == 1 else "Comparison",
        caption=summary(outcome),
        columns=(
            *(Column(header=header, align="left") for header in texts),
            *(Column(header=header, align="right") for header in _NUMBERS),
        ),
        rows=tuple(tuple(Cell(text=text) for text in row) for row in rows),
    )


def _row(case: Comparison) -> list[str]:
    return [case.verdict.replace("_", " "), case.label, *_numbers(case)]


def _numbers(case: Comparison) -> Sequence[str]:
    shift = case.worst
    if shift is None:
        return [ABSENT] * (1 + len(_NUMBERS))
    field = FIELDS[shift.field]
    share = ABSENT if shift.share is None else share_text(shift.share)
    return field.title, *both_texts(shift), field.text(shift.delta, signed=True), share
