"""The bytes that simulated and measured lie apart.

error = simulated / measured - 1, so an under-estimate is below zero: the case that a person rents
too small a card for, which is why those are counted apart. Functions from values to values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from statistics import median

from petl_bench.record import Measurement, Phase
from petl_bench.tables import STEP_PHASES
from petl_bench.verify.pairs import Pair, Setting, settings

WHOLE_STEP = None
"""Stands where a phase could: the highest of all phases."""

SCOPES: tuple[Phase | None, ...] = (WHOLE_STEP, *STEP_PHASES)


class Counter(StrEnum):
    """A counter of the caching allocator that both sides have."""

    PEAK_ALLOCATED = "peak_allocated"
    PEAK_RESERVED = "peak_reserved"
    PEAK_REQUESTED = "peak_requested"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One counter of one pair within one phase, or within the whole step."""

    pair: Pair
    phase: Phase | None
    counter: Counter
    measured_bytes: int
    simulated_bytes: int

    @property
    def error(self) -> float:
        """Simulated over measured, less one."""
        return self.simulated_bytes / self.measured_bytes - 1


@dataclass(frozen=True, kw_only=True)
class ErrorSummary:
    """The errors of one counter within one phase, over all cases."""

    phase: Phase | None
    counter: Counter
    count: int
    median_absolute_error: float
    bias: float  # the median of the signed errors
    worst: Difference  # by absolute error
    under_estimates: int
    worst_under_estimate: Difference | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Whether the methods of one setting sort alike by their whole step's peak allocated."""

    setting: Setting
    methods: int
    # Two that sort otherwise than measured, and how far apart they were measured.
    swapped: tuple[tuple[str, str, float], ...]

    @property
    def comparisons(self) -> int:
        """Pairs of methods that were put in order."""
        return self.methods * (self.methods - 1) // 2


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The roofline's time of a step beside the measured one, over the cases of one setting."""

    setting: Setting
    errors: tuple[tuple[str, float], ...]  # method; estimate over the median measured, less one
    in_order: int  # pairs of methods of which the same one is faster

    @property
    def comparisons(self) -> int:
        """Pairs of methods that were put in order."""
        return len(self.errors) * (len(self.errors) - 1) // 2


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What processes held of one device beside PyTorch's segments, in bytes, as NVML tells it."""

    device: str
    card: str  # that stands for it
    fresh: tuple[int, ...]  # before the first tensor, a case each
    trained: tuple[int, ...]  # after the last measured step


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Everything that a set of pairs says about the simulation."""

    pairs: tuple[Pair, ...]
    differences: tuple[Difference, ...]
    summaries: tuple[ErrorSummary, ...]
    rankings: tuple[Ranking, ...]
    timings: tuple[Timing, ...] = ()
    contexts: tuple[Beside, ...] = ()

    @property
    def exceptions(self) -> list[Pair]:
        """Pairs that did not end well on both sides, those that disagree first."""
        found = (pair for pair in self.pairs if pair.measurements is None or not pair.agrees)
        return sorted(found, key=lambda pair: pair.agrees)

    @property
    def disagreements(self) -> list[Pair]:
        """Pairs that did not end alike."""
        return [pair for pair in self.pairs if not pair.agrees]

    def summary(self, counter: Counter, phase: Phase | None = WHOLE_STEP) -> ErrorSummary | None:
        """The summary of `counter` within `phase`; None if no pair has both numbers."""
        found = [each for each in self.summaries if (each.counter, each.phase) == (counter, phase)]
        return found[0] if found else None


def verify(pairs: Iterable[Pair]) -> Verification:
    """What `pairs` say about the simulation."""
    pairs = tuple(pairs)
    differences = tuple(difference for pair in pairs for difference in differences_of(pair))
    return Verification(
        pairs=pairs,
        differences=differences,
        summaries=tuple(_summaries(differences)),
        rankings=tuple(ranking for s in settings(pairs) if (ranking := _ranking(s)).methods > 1),
        timings=tuple(timing for s in settings(pairs) if (timing := _timing(s)).errors),
        contexts=tuple(_contexts(pairs)),
    )


def peak_bytes(seen: Measurement, counter: Counter, phase: Phase | None) -> int | None:
    """The highest of `counter` within `phase` over all measured steps; None if it is not known."""
    found = [
        getattr(memory, f"{counter}_bytes")
        for step in seen.steps
        for name, memory in step.items()
        if phase is WHOLE_STEP or name == phase
    ]
    return None if not found or None in found else max(found)


def differences_of(pair: Pair) -> Iterable[Difference]:
    """Every counter in every phase that both sides of `pair` have."""
    if pair.measurements is None:
        return
    for counter in Counter:
        for phase in SCOPES:
            measured, simulated = (peak_bytes(seen, counter, phase) for seen in pair.measurements)
            if measured and simulated is not None:
                yield Difference(
                    pair=pair,
                    phase=phase,
                    counter=counter,
                    measured_bytes=measured,
                    simulated_bytes=simulated,
                )


def _summaries(differences: Sequence[Difference]) -> Iterable[ErrorSummary]:
    for counter in Counter:
        for phase in SCOPES:
            found = [d for d in differences if (d.counter, d.phase) == (counter, phase)]
            if found:
                yield _summary(found)


def _summary(differences: Sequence[Difference]) -> ErrorSummary:
    """Of differences that share their counter and phase."""
    errors = [difference.error for difference in differences]
    under = [d for d in differences if d.simulated_bytes < d.measured_bytes]
    return ErrorSummary(
        phase=differences[0].phase,
        counter=differences[0].counter,
        count=len(differences),
        median_absolute_error=median(map(abs, errors)),
        bias=median(errors),
        worst=max(differences, key=lambda difference: abs(difference.error)),
        under_estimates=len(under),
        worst_under_estimate=min(under, key=lambda d: d.error, default=None),
    )


def _ranking(setting: Setting) -> Ranking:
    peaks = [
        (pair.measured.label, measured.peak_allocated_bytes, simulated.peak_allocated_bytes)
        for pair in setting.pairs
        if pair.measurements
        for measured, simulated in [pair.measurements]
    ]
    swapped = []
    for (one, measured_1, simulated_1), (other, measured_2, simulated_2) in combinations(peaks, 2):
        if _order(measured_1, measured_2) != _order(simulated_1, simulated_2):
            apart = abs(measured_1 - measured_2) / max(measured_1, measured_2)
            swapped.append((one, other, apart))
    return Ranking(setting=setting, methods=len(peaks), swapped=tuple(swapped))


def _timing(setting: Setting) -> Timing:
    times = [
        (pair.measured.label, median(measured.step_times_s), simulated.roofline.step_s)
        for pair in setting.pairs
        if pair.measurements
        for measured, simulated in [pair.measurements]
        if measured.step_times_s and simulated.roofline
    ]
    return Timing(
        setting=setting,
        errors=tuple((label, estimate / seen - 1) for label, seen, estimate in times),
        in_order=sum(
            _order(one[1], other[1]) == _order(one[2], other[2])
            for one, other in combinations(times, 2)
        ),
    )


def _contexts(pairs: Sequence[Pair]) -> Iterable[Beside]:
    found: dict[tuple[str, str], list[Measurement]] = {}
    for pair in pairs:
        if pair.measurements and pair.simulated:
            place = pair.measured.environment.device, pair.simulated.environment.device
            found.setdefault(place, []).append(pair.measurements[0])
    for (device, card), seen in found.items():
        # What is reserved never shrinks unless the device is full.
        trained = (
            (one.device_used_bytes, one.peak_reserved_bytes)
            for one in seen
            if one.device_used_bytes is not None
        )
        yield Beside(
            device=device,
            card=card,
            fresh=tuple(one.context_bytes for one in seen if one.context_bytes is not None),
            trained=tuple(used - reserved for used, reserved in trained),
        )


def _order(one: float, other: float) -> int:
    return (one > other) - (one < other)
