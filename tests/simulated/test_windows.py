"""Steps that keep a result until they have the next one, and steps that cannot be replayed."""

import pytest

from petl_bench.case import Workload
from petl_bench.profilers.simulated.accounting import Accountant
from petl_bench.profilers.simulated.allocator import DEFAULT_SETTINGS
from petl_bench.profilers.simulated.capacity import attempt
from petl_bench.profilers.simulated.ledger import LOADED, Ledger
from petl_bench.profilers.simulated.windows import split
from petl_bench.record import Category, Phase
from petl_bench.units import MIB

WORKLOAD = Workload(warmup_steps=1, measured_steps=3)


def ledger_of(*steps):
    """A ledger that loads 4 MiB and takes steps: what they allocate, by name, and -name frees."""
    ledger, known = Ledger(), {}
    start = ledger.begin(Phase.LOAD)
    ledger._allocate(4 * MIB, LOADED, Category.PARAMETER)
    ledger.end(0, Phase.LOAD, start)
    for number, step in enumerate(steps):
        start = ledger.begin(Phase.FORWARD)
        for name in step:
            if name.startswith("-"):
                ledger.events.append(~known[name[1:]])
            else:
                size = 2 * MIB if name.startswith("kept") else 8 * MIB
                known[name] = ledger._allocate(size, name[:4], Category.ACTIVATION)
        ledger.end(number, Phase.FORWARD, start)
    return ledger


KEEPS = ledger_of(["kept0", "work", "-work"], ["work", "kept1", "-kept0", "-work"])


def test_what_a_step_keeps_stands_where_the_last_one_kept_it():
    """Every step: 4 loaded, 8 of work, 2 kept and, for a moment, 2 of the step before."""
    steps = split(KEEPS, WORKLOAD)
    accountant = Accountant(KEEPS, DEFAULT_SETTINGS, steps)
    for window in (steps.load, *steps.warm_up):
        accountant.replay(window)
    for _ in range(WORKLOAD.measured_steps):
        (memory,) = (accountant.replay(window) for window in steps.steady)
        assert memory.peak_requested_bytes == (4 + 8 + 2 + 2) * MIB
        assert memory.end_allocated_bytes == (4 + 2) * MIB
    trial = attempt(KEEPS, WORKLOAD, None, DEFAULT_SETTINGS)
    assert trial.refusal is None
    assert trial.peak_allocated_bytes == (4 + 8 + 2 + 2) * MIB


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((["work"], ["-work"]), "frees work's result, not its own"),
        ((["kept0"], ["kept1"]), "leaves results behind of: kept"),
        ((["kept0"], ["work", "-kept0"]), "leaves results behind of: work"),
    ],
)
def test_what_would_be_another_step_the_next_time_is_refused(steps, told):
    with pytest.raises(RuntimeError, match=told):
        split(ledger_of(*steps), WORKLOAD)
