"""One method's answers: the axis made of cases, cases simulated, streams searched."""

from collections.abc import Sequence
from functools import partial

from petl_bench import backbones
from petl_bench.assembly import assemble, unsupported
from petl_bench.backbones import FAMILIES
from petl_bench.case import Backbone, Case
from petl_bench.environment import allocator_conf
from petl_bench.explain import live_tensor
from petl_bench.explanation import LiveTensor
from petl_bench.fit import (
    FIELD,
    LARGEST,
    Answer,
    Curve,
    CurvePoint,
    Held,
    Overflow,
    Question,
    Vary,
)
from petl_bench.fit.search import border
from petl_bench.fit.streams import Stream, Streams
from petl_bench.method_spec import fitted, parse_specs
from petl_bench.profilers.simulated.allocator import AllocatorSettings
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.profiler import META, run_ledger
from petl_bench.profilers.simulated.provenance import Provenance

_DEGREE = {Vary.BATCH: 1, Vary.LENGTH: 2, Vary.BACKBONE: None}
_START = {Vary.BATCH: 2, Vary.LENGTH: 16}  # not 1, where some copies are views


def axis_of_backbones(backbone: Backbone) -> list[Backbone]:
    """The built-in backbones of `backbone`'s family by size, each stored and run as it is."""
    family = FAMILIES[backbone.family]
    found = [
        backbones.find(
            name,
            dtype=backbone.dtype,
            attention=backbone.attention,
            quantize=backbone.quantize,
        )
        for name in family.published
    ]
    return sorted(found, key=lambda each: family.dims(each.config).total_parameters)


class Probe:
    """Asks one method how much of its axis fits."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._case = question.planned.case
        self._vary = question.vary
        self._backbones: Sequence[Backbone] = ()
        self._step = 1  # examples; a batch is made of equal parts
        self._last = LARGEST.get(self._vary, 0)
        if self._vary is Vary.BATCH:
            self._step = self._case.workload.accumulation_steps
            self._last //= self._step
        elif self._vary is Vary.LENGTH:
            backbone = self._case.backbone
            longest = FAMILIES[backbone.family].longest(backbone.config)
            self._last = min(self._last, longest or self._last)
        else:
            self._backbones = axis_of_backbones(self._case.backbone)
            self._last = len(self._backbones)
        self._settings = AllocatorSettings.parse(allocator_conf())
        self._streams = Streams(
            self._simulate,
            self._case.workload,
            self._settings,
            _DEGREE[self._vary],
        )

    def curve(self) -> Curve:
        """The method's answers at every memory, or why there are none."""
        question, label = self._question, self._question.planned.label
        reason = unsupported(self._case)
        if reason is not None:
            return Curve(case=self._case, label=label, reason=f"skipped: {reason}")
        start = _START.get(self._vary, (1 + self._last) // 2)
        try:
            # The largest first: what is simulated for it lies on the way to all others.
            places = {
                memory: border(self._streams, self._room(memory), 1, self._last, start)
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
        case = self._at(place)
        trainee = assemble(case, META)
        with Provenance(trainee) as provenance:
            ledger = run_ledger(case, trainee, self._question.card, ERAS[None], provenance)
        return Stream.of(ledger, partial(live_tensor, ledger=ledger, provenance=provenance))

    def _at(self, place: int) -> Case:
        if self._vary is Vary.BACKBONE:
            backbone = self._backbones[place - 1]
            ((_, choice),) = parse_specs(self._question.planned.label)
            return Case(
                backbone=backbone,
                method=fitted(choice, backbone),
                workload=backbones.fitted(backbone, self._case.workload),
            )
        update = {FIELD[self._vary]: place * self._step}
        workload = self._case.workload.model_copy(update=update)
        return self._case.model_copy(update={"workload": workload})

    def _name(self, place: int) -> str:
        return self._backbones[place - 1].name if self._backbones else str(place * self._step)

    def _answer(self, memory_bytes: int, capacity_bytes: int, place: int) -> Answer:
        return Answer(
            label=self._question.planned.label,
            memory_bytes=memory_bytes,
            capacity_bytes=self._settings.allowed_bytes(capacity_bytes),
            largest=self._held(place, capacity_bytes) if place else None,
            overflow=self._overflow(place + 1, capacity_bytes) if place < self._last else None,
        )

    def _held(self, place: int, capacity_bytes: int) -> Held:
        made = self._streams.trial(place, capacity_bytes)
        assert made is not None
        assert made.refusal is None
        return Held(
            place=self._name(place),
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
            place=self._name(place),
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
            place=self._name(place),
            position=place * self._step,
            peak_allocated_bytes=made.peak_allocated_bytes,
            peak_reserved_bytes=made.peak_reserved_bytes,
        )
