"""Methods that do not go with their backbone or workload: one rule for every verb.

If none of those asked for fits, the request cannot be carried out. If some do, it goes on: the
others are skipped, in the table with their reason, and told on stderr.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from petl_bench.errors import UsageError

if TYPE_CHECKING:
    from petl_bench.case import Case
    from petl_bench.fit.answers import Curve
    from petl_bench.record import Record
    from petl_bench.suite import PlannedCase


def check_fit(
    asked: "Iterable[PlannedCase]", misfit: "Callable[[Case], str | None] | None" = None
) -> None:
    """Refuse a request before anything runs, if none of its cases can.

    `misfit` says why a case cannot; by default, as far as its backbone and workload go.

    Raises:
        UsageError: none can, with each one's reason.
    """
    from petl_bench.assembly import unsupported

    misfit = misfit or unsupported
    reasons: list[str] = []
    for planned in asked:
        reason = misfit(planned.case)
        if reason is None:
            return
        reasons.append(_told(planned, reason))
    raise UsageError(f"methods: none fits; {'; '.join(dict.fromkeys(reasons))}")


def check_one_workload(verb: str, plan: "Iterable[PlannedCase]") -> None:
    """Refuse several workloads, where `verb` answers for one.

    Raises:
        UsageError: `plan` has more than one.
    """
    if len({planned.case.workload for planned in plan}) > 1:
        raise UsageError(f"workload: {verb} takes one at a time, and these are several")


def tell_skipped(records: "Sequence[Record]", asked: "Iterable[PlannedCase]") -> None:
    """Name the skipped of a run.

    Raises:
        UsageError: all that was asked for was; some misfits show only when a model is built.
    """
    tell((record, record.reason or "") for record in records if record.status == "skipped")
    ids = {planned.case.case_id for planned in asked}
    statuses = {record.status for record in records if record.case_id in ids}
    if statuses == {"skipped"}:
        raise UsageError("methods: none fits")


def tell(skipped: "Iterable[tuple[PlannedCase | Record | Curve, str]]") -> None:
    """Name what was skipped and why, a line each whatever the workload."""
    for line in dict.fromkeys(_told(what, reason) for what, reason in skipped):
        print(f"skipped: {line}", file=sys.stderr)


def _told(what: "PlannedCase | Record | Curve", reason: str) -> str:
    return " ".join(f"{what.label} on {what.case.backbone.name}: {reason}".split())
