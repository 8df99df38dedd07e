"""Cases of records, simulated again here."""

from pathlib import Path
from typing import TYPE_CHECKING

from petl_bench.cli.progress import run_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petl_bench.record import Record


def simulate_again(records: "Sequence[Record]") -> "list[Record]":
    """A new simulation of each case, on the card and with the settings that it had.

    Raises:
        UsageError: none of them was simulated, or on a card that is not known here.
    """
    from tempfile import TemporaryDirectory

    from petl_bench import cards
    from petl_bench.environment import allocator_options
    from petl_bench.errors import UsageError
    from petl_bench.record import Origin
    from petl_bench.runner import Runner
    from petl_bench.store import Store
    from petl_bench.suite import PlannedCase

    plans: dict[tuple[str, str | None, str], dict[str, PlannedCase]] = {}
    for record in records:
        if record.origin is Origin.SIMULATED:
            place = record.environment
            plan = plans.setdefault((place.device, place.emulates, place.allocator_settings), {})
            plan[record.case_id] = PlannedCase(label=record.label, case=record.case)
    if not plans:
        raise UsageError("new: measured records are not made again; name a run")
    made = []
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for (device, emulates, options), plan in plans.items():
            runner = Runner(origin=Origin.SIMULATED, card=cards.find(device), emulates=emulates)
            with allocator_options(options):
                made += run_plan(runner, list(plan.values()), store)
    return made
