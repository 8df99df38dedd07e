"""One method's answers: cases simulated, streams searched."""

from functools import partial

from petl_bench.assembly import assemble, unsupported
from petl_bench.environment import allocator_conf
from petl_bench.explain import live_tensor
from petl_bench.explanation import LiveTensor
from petl_bench.fit.answers import Answer, Curve, CurvePoint, Held, Overflow
from petl_bench.fit.asking import Question
from petl_bench.fit.axis import Axis
from petl_bench.fit.search import border
from petl_bench.fit.streams import Stream, Streams
from petl_bench.profilers.simulated.allocator import AllocatorSettings
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.profiler import META, run_ledger
from petl_bench.profilers.simulated.provenance import Provenance


class Probe:
    """Asks one method how much of its axis fits."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._case = question.planned.case
        self._axis = Axis(question.planned, question.vary)
        self._settings = AllocatorSettings.parse(allocator_conf())
        self._streams = Streams(
            self._simulate, self._case.workload, self._settings, self._axis.degree
        )

    def curve(self) -> Curve:
        """The method's answers at every memory, or why there are none."""
        question, label = self._question, self._question.planned.label
        reason = unsupported(self._case)
        if reason is not None:
            return Curve(case=self._case, label=label, reason=f"skipped: {reason}")
        axis = self._axis
        try:
            # The largest first: what is simulated for it lies on the way to all others.
            places = {
                memory: border(self._streams, self._room(memory), 1, axis.last, axis.start)
                for memory in sorted(question.memory_bytes, reverse=True)
            }
        except Exception as error:  # noqa: BLE001 - a method that fails is a result, as in a run
            return Curve(case=self._case, label=label, reason=f"error: {error}")
        return Curve(
            case=self._case,
            label=label,
            answers=tuple(
                self._answer(memory, self._room(memory), places[memory])
                for memory in question.memory_bytes
            ),
            points=tuple(map(self._point, sorted(self._streams.simulated))),
        )

    def _room(self, memory_bytes: int) -> int:
        return memory_bytes - self._question.card.context_bytes

    def _simulate(self, place: int) -> Stream:
        """The stream at `place`, which knows where its storages come from."""
        case = self._axis.case(place)
        trainee = assemble(case, META)
        with Provenance(trainee) as provenance:
            ledger = run_ledger(case, trainee, self._question.card, ERAS[None], provenance)
        return Stream.of(ledger, partial(live_tensor, ledger=ledger, provenance=provenance))

    def _answer(self, memory_bytes: int, capacity_bytes: int, place: int) -> Answer:
        return Answer(
            label=self._question.planned.label,
            memory_bytes=memory_bytes,
            capacity_bytes=self._settings.allowed_bytes(capacity_bytes),
            largest=self._held(place, capacity_bytes) if place else None,
            overflow=self._overflow(place + 1, capacity_bytes) if place < self._axis.last else None,
        )

    def _held(self, place: int, capacity_bytes: int) -> Held:
        made = self._streams.trial(place, capacity_bytes)
        assert made is not None
        assert made.refusal is None
        return Held(
            place=self._axis.name(place),
            peak_allocated_bytes=made.peak_allocated_bytes,
            peak_reserved_bytes=made.peak_reserved_bytes,
            margin_bytes=self._settings.allowed_bytes(capacity_bytes) - made.peak_reserved_bytes,
            simulated=place in self._streams.simulated,
        )

    def _overflow(self, place: int, capacity_bytes: int) -> Overflow:
        made = self._streams.trial(place, capacity_bytes)
        assert made is not None
        assert made.refusal is not None
        assert made.refused is not None
        return Overflow(
            place=self._axis.name(place),
            phase=made.refusal.phase,
            tensor=self._tensor(place, made.refused),
            allocated_bytes=made.refusal.allocated_bytes,
            reserved_bytes=made.refusal.reserved_bytes,
            simulated=place in self._streams.simulated,
        )

    def _tensor(self, place: int, index: int) -> LiveTensor:
        """The storage that was refused, named by a simulation that differs in sizes alone."""
        stream = self._streams.certain_stream(place)
        assert stream.describe is not None
        return stream.describe(index, stream.sizes[index])

    def _point(self, place: int) -> CurvePoint:
        made = self._streams.trial(place, None)
        assert made is not None
        return CurvePoint(
            place=self._axis.name(place),
            position=self._axis.position(place),
            peak_allocated_bytes=made.peak_allocated_bytes,
            peak_reserved_bytes=made.peak_reserved_bytes,
        )
