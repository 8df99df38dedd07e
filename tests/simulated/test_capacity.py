"""Whether a stream of allocations fits: by hand, and its bounds for any stream."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petl_bench import backbones, cards, method_spec
from petl_bench.case import Case, Workload
from petl_bench.eras import TORCH_1_10
from petl_bench.profilers.simulated.accounting import Accountant
from petl_bench.profilers.simulated.allocator import (
    DEFAULT_SETTINGS,
    CachingAllocator,
    OutOfMemoryError,
)
from petl_bench.profilers.simulated.capacity import attempt, refusal
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.ledger import LOADED, Ledger
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.record import Category, Phase, Refusal
from petl_bench.units import MIB

WORKLOAD = Workload(warmup_steps=1, measured_steps=2)


def ledger_of(loaded, forward, backward):
    """A ledger that loads storages, then takes a step twice.

    A phase is a list: n > 0 allocates n bytes, -k frees the step's k-th allocation; what is left
    at the end of backward is freed then.
    """
    ledger = Ledger()
    start = ledger.begin(Phase.LOAD)
    for size in loaded:
        ledger._allocate(size, LOADED, Category.PARAMETER)
    ledger.end(0, Phase.LOAD, start)
    for step in range(2):
        made = []
        for phase, actions in ((Phase.FORWARD, forward), (Phase.BACKWARD, backward)):
            start = ledger.begin(phase)
            for action in actions:
                if action > 0:
                    category = Category.ACTIVATION if phase is Phase.FORWARD else Category.GRADIENT
                    made.append(ledger._allocate(action, f"aten::{phase}", category))
                else:
                    ledger.events.append(~made[-action - 1])
            if phase is Phase.BACKWARD:
                freed = {~event for event in ledger.events if event < 0}
                ledger.events.extend(~index for index in made if index not in freed)
            ledger.end(step, phase, start)
    return ledger


def fits(ledger, capacity_bytes, settings=DEFAULT_SETTINGS):
    return refusal(ledger, WORKLOAD, capacity_bytes, settings) is None


def test_a_case_that_fits_by_giving_a_cached_segment_back():
    """30 MiB are loaded. Forward takes 12 and frees them; backward's 14 do not fit into their
    segment. With room for 44 that segment is given back for one of 14; with 2 less even that is
    too little, and 30 are reserved by then.
    """
    ledger = ledger_of([30 * MIB], [12 * MIB, -1], [14 * MIB])
    assert fits(ledger, 44 * MIB)
    assert refusal(ledger, WORKLOAD, 42 * MIB, DEFAULT_SETTINGS) == Refusal(
        requested_bytes=14 * MIB,
        phase=Phase.BACKWARD,
        category=Category.GRADIENT,
        operator="aten::backward",
        allocated_bytes=30 * MIB,
        reserved_bytes=30 * MIB,
    )


def test_weights_that_do_not_fit_are_refused_while_loading():
    ledger = ledger_of([30 * MIB, 10 * MIB], [1], [1])
    found = refusal(ledger, WORKLOAD, 39 * MIB, DEFAULT_SETTINGS)
    assert (found.phase, found.operator, found.requested_bytes) == (Phase.LOAD, LOADED, 10 * MIB)


def test_fragments_count_though_there_are_bytes_enough():
    """Forward takes 9 and 4 MiB from one segment of 20, and frees the 9. Backward asks for 18: no
    run of the segment's free 16 is as long, and a segment in use cannot be given back.
    """
    ledger = ledger_of([], [9 * MIB, 4 * MIB, -1], [18 * MIB])
    found = refusal(ledger, WORKLOAD, 36 * MIB, DEFAULT_SETTINGS)
    assert (found.allocated_bytes, found.reserved_bytes) == (4 * MIB, 20 * MIB)
    assert found.requested_bytes < 36 * MIB - found.allocated_bytes
    assert fits(ledger, 38 * MIB)


def test_more_memory_can_be_worse():
    """4 MiB come from a segment of 20 and are freed; 40 have a segment of their own. With room for
    52 the 20 are given back for it, then 10 get a segment of 10, and 1 one of 2. With room for
    60 the 20 stay, the 10 are cut from them, and for the segment of 2 there is no room left.
    """
    ledger = ledger_of([], [4 * MIB, -1, 40 * MIB, 10 * MIB], [1 * MIB])
    assert fits(ledger, 52 * MIB)
    assert not fits(ledger, 60 * MIB)
    assert fits(ledger, 62 * MIB)


SIZES = st.one_of(st.integers(1, 3 * MIB), st.integers(1, 40).map(lambda size: size * MIB))


@st.composite
def ledgers(draw):
    made, phases, live = 0, [], []
    for _ in range(2):
        actions = []
        for _ in range(draw(st.integers(1, 10))):
            if live and draw(st.booleans()):
                actions.append(-live.pop(draw(st.integers(0, len(live) - 1))))
            else:
                made += 1
                live.append(made)
                actions.append(draw(SIZES))
        phases.append(actions)
    return ledger_of(draw(st.lists(SIZES, max_size=3)), *phases)


def unlimited_reserved(ledger):
    accountant = Accountant(ledger, DEFAULT_SETTINGS)
    windows = [*ledger.windows, *ledger.windows[-2:]]
    return max(accountant.replay(window).peak_reserved_bytes for window in windows)


def most_alive(ledger):
    alive = most = 0
    for event in ledger.events:
        alive += ledger.sizes[event] if event >= 0 else -ledger.sizes[~event]
        most = max(most, alive)
    return most


@given(ledgers(), st.integers(-3, 3))
def test_what_is_reserved_without_a_limit_is_enough_and_less_than_the_tensors_is_not(ledger, more):
    reserved, alive = unlimited_reserved(ledger), most_alive(ledger)
    assert fits(ledger, reserved + abs(more) * MIB)
    assert not fits(ledger, alive - 1)


def replayed(ledger, steps, capacity_bytes, settings):
    """What is refused, and the highest of what is allocated and reserved, every step replayed."""
    allocator = CachingAllocator(capacity_bytes, settings)
    load, *warm_up, forward, backward = ledger.windows
    allocated, reserved = [0], [0]
    for number, window in enumerate((load, *warm_up, *(forward, backward) * steps)):
        if number == 1 + len(warm_up):
            allocated, reserved = [allocator.allocated_bytes], [allocator.reserved_bytes]
        for event in ledger.events[window.start : window.stop]:
            if event < 0:
                allocator.free(~event)
                continue
            try:
                allocator.malloc(event, ledger.sizes[event])
            except OutOfMemoryError:
                return event, max(allocated), max(reserved)
            allocated.append(allocator.allocated_bytes)
            reserved.append(allocator.reserved_bytes)
    return None, max(allocated), max(reserved)


@settings(deadline=None)
@given(ledgers(), st.integers(1, 200).map(lambda size: size * MIB), st.booleans())
def test_a_step_that_changes_nothing_stands_for_all_that_follow(ledger, capacity, collects):
    chosen = DEFAULT_SETTINGS
    if collects:
        chosen = replace(chosen, per_process_memory_fraction=0.9, garbage_collection_threshold=0.5)
    workload = WORKLOAD.model_copy(update={"measured_steps": 9})
    trial = attempt(ledger, workload, capacity, chosen)
    found = trial.refused, trial.peak_allocated_bytes, trial.peak_reserved_bytes
    assert found == replayed(ledger, 9, capacity, chosen)


@given(ledgers(), st.integers(1, 200).map(lambda size: size * MIB))
def test_a_refused_request_does_not_fit_beside_what_is_reserved(ledger, capacity):
    found = refusal(ledger, WORKLOAD, capacity, DEFAULT_SETTINGS)
    if found is None:
        assert most_alive(ledger) <= capacity
    else:
        assert found.allocated_bytes <= found.reserved_bytes <= capacity
        assert found.reserved_bytes + found.requested_bytes > capacity - 20 * MIB  # a segment


# --------------------------------------------------------------------------------------------
# Of a case


CARD = cards.find("t4")


@pytest.fixture(scope="module")
def case():
    return Case(
        backbone=backbones.find("t5-small"),
        method=method_spec.resolve("bitfit", {}),
        workload=Workload(batch_size=2, source_length_tokens=16),
    )


@pytest.fixture(scope="module")
def seen(case):
    return simulate(case, CARD)


def with_room(size):
    return replace(CARD, memory_bytes=size + CARD.context_bytes)


def test_a_case_that_is_too_large_keeps_its_numbers_and_says_what_did_not_fit(case, seen):
    assert seen.fit.capacity_bytes == CARD.memory_bytes - CARD.context_bytes
    assert seen.fit.refusal is None
    enough = simulate(case, with_room(seen.peak_reserved_bytes))
    assert enough.fit.refusal is None
    small = simulate(case, with_room(seen.peak_allocated_bytes - MIB))
    assert small.steps == seen.steps
    assert small.fit.refusal is not None
    none = simulate(case, with_room(MIB))
    assert none.fit.refusal.phase is Phase.LOAD
    assert none.fit.refusal.allocated_bytes == 0


def test_a_fraction_of_the_memory_limits_the_case_and_not_its_numbers(case, seen, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "per_process_memory_fraction:0.5")
    card = with_room(2 * (seen.peak_allocated_bytes - MIB))
    limited = simulate(case, card)
    assert limited.steps == seen.steps
    assert limited.fit.capacity_bytes == seen.peak_allocated_bytes - MIB
    assert limited.fit.refusal is not None
    ample = simulate(case, with_room(2 * seen.peak_reserved_bytes))
    assert ample.fit.refusal is None


def test_an_era_is_not_told_whether_it_fits(case):
    assert simulate(case, CARD, ERAS[TORCH_1_10]).fit is None


@pytest.mark.parametrize("card", cards.CARDS.values(), ids=lambda card: card.name)
def test_a_cards_context_is_a_small_part_of_it(card):
    assert 0 < card.context_bytes < card.memory_bytes / 40
