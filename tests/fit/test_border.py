"""The border between what fits and what does not: against trying every place."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petl_bench.case import Workload
from petl_bench.fit.search import border
from petl_bench.fit.streams import Stream, Streams
from petl_bench.profilers.simulated.allocator import DEFAULT_SETTINGS
from petl_bench.profilers.simulated.capacity import attempt
from petl_bench.profilers.simulated.ledger import Window
from petl_bench.record import Category, Phase
from petl_bench.units import GIB, KIB, MIB

WORKLOAD = Workload(warmup_steps=1, measured_steps=1)
LAST = 300


def stream_of(fixed_bytes, sizes):
    """Weights are loaded; two steps allocate `sizes` one after the other and free them all."""
    count = len(sizes)
    events, windows = [0], [Window(0, Phase.LOAD, 0, 1)]
    for step in range(2):
        start, first = len(events), 1 + step * count
        events += range(first, first + count)
        windows.append(Window(step, Phase.FORWARD, start, len(events)))
        start = len(events)
        events += [~index for index in reversed(range(first, first + count))]
        windows.append(Window(step, Phase.BACKWARD, start, len(events)))
    return Stream(
        events=tuple(events),
        sizes=(fixed_bytes, *sizes, *sizes),
        categories=(Category.PARAMETER, *[Category.ACTIVATION] * (2 * count)),
        operators=tuple("aten::mm" for _ in range(1 + 2 * count)),
        windows=tuple(windows),
    )


class Machine:
    """A simulator whose storages are polynomials of the place; it counts how often it is asked."""

    def __init__(self, fixed_bytes, laws, padding=1):
        self.asked = []
        self._fixed_bytes = fixed_bytes
        self._laws = laws
        self._padding = padding

    def stream(self, place):
        place = -(-place // self._padding) * self._padding
        sizes = [
            sum(factor * place**power for power, factor in enumerate(law)) for law in self._laws
        ]
        return stream_of(self._fixed_bytes, sizes)

    def run(self, place):
        assert place not in self.asked
        self.asked.append(place)
        return self.stream(place)

    def fits(self, place, capacity_bytes):
        trial = attempt(self.stream(place), WORKLOAD, capacity_bytes, DEFAULT_SETTINGS)
        return trial.refusal is None


def streams_of(machine, degree=1):
    return Streams(machine.run, WORKLOAD, DEFAULT_SETTINGS, degree)


def check(machine, place, capacity_bytes):
    assert place == 0 or machine.fits(place, capacity_bytes)
    assert place == LAST or not machine.fits(place + 1, capacity_bytes)


bytes_a_sample = st.integers(1, 4 * MIB)
laws = st.lists(st.tuples(st.integers(0, 8 * MIB), bytes_a_sample), min_size=1, max_size=6)
capacity = st.integers(4 * MIB, 8 * GIB)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 64 * MIB), laws, st.lists(capacity, min_size=1, max_size=3))
def test_a_place_fits_and_the_next_one_does_not_with_few_simulations(fixed, found, capacities):
    machine = Machine(fixed, found)
    streams = streams_of(machine)
    for room in sorted(capacities, reverse=True):
        check(machine, border(streams, room, 1, LAST, start=2), room)
    assert len(machine.asked) <= 5 + 3 * len(capacities)


@settings(deadline=None, max_examples=40)
@given(laws, st.integers(2, 9), st.lists(capacity, min_size=1, max_size=3))
def test_a_kernel_that_pads_is_never_taken_for_a_slope(found, padding, capacities):
    machine = Machine(MIB, found, padding)
    streams = streams_of(machine)
    for room in sorted(capacities, reverse=True):
        check(machine, border(streams, room, 1, LAST, start=2), room)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 64 * KIB)] * 3), min_size=1, max_size=5), capacity)
def test_squares_are_found_too(found, room):
    machine = Machine(MIB, [(1 + a, b, c) for a, b, c in found])
    check(machine, border(streams_of(machine, degree=2), room, 1, LAST, start=16), room)


@pytest.mark.parametrize("degree", [1, None])
def test_without_a_law_simulations_halve_the_bracket(degree):
    machine = Machine(MIB, [(0, MIB)], padding=16)
    streams = streams_of(machine, degree)
    assert border(streams, 100 * MIB, 1, LAST, start=150) == 96
    assert len(machine.asked) < 20


def test_nothing_fits_and_everything_fits():
    machine = Machine(GIB, [(0, MIB)])
    assert border(streams_of(machine), GIB // 2, 1, LAST, start=2) == 0
    assert 1 in machine.asked
    assert border(streams_of(Machine(MIB, [(0, 1)])), GIB, 1, LAST, start=2) == LAST


def test_a_line_needs_a_third_simulation_and_neighbours_to_be_certain():
    streams = streams_of(Machine(MIB, [(5, 7)]))
    for place in (2, 40):
        streams.simulate(place)
    assert not streams.is_certain(41)
    streams.simulate(60)
    assert not streams.is_certain(61)
    streams.simulate(41)
    assert streams.is_certain(61)
    assert not streams.is_certain(50)


def test_a_stream_of_another_kind_is_not_computed_with():
    """From place 30 on another operator is called; what was below says nothing of it."""

    class Switching(Machine):
        def stream(self, place):
            made = super().stream(place)
            name = "aten::mm" if place < 30 else "aten::addmm"
            return replace(made, operators=tuple(name for _ in made.operators))

    machine = Switching(MIB, [(0, MIB), (0, 3 * MIB)])
    streams = streams_of(machine)
    check(machine, border(streams, 100 * MIB, 1, LAST, start=2), 100 * MIB)
    for place in (10, 11, 12, 60):
        if place not in streams.simulated:
            streams.simulate(place)
    assert streams.is_certain(13)
    assert not streams.is_certain(61)
