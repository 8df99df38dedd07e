"""What is made of each pair, and of all of them."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from pydantic import Field

from petl_bench.case import Frozen
from petl_bench.comparison.composition import Move, moved
from petl_bench.comparison.fields import FIELDS
from petl_bench.comparison.pairs import Pair, pair_up
from petl_bench.comparison.subjects import Subject
from petl_bench.comparison.thresholds import DEFAULT, Threshold
from petl_bench.errors import UsageError
from petl_bench.record import Category, Origin, Phase, Status

VERSIONS = ("torch", "transformers", "peft", "cuda", "driver", "petl_bench")


class Verdict(StrEnum):
    """What became of a case; the worst first."""

    NEWLY_FAILING = "newly_failing"
    REGRESSED = "regressed"
    NOT_COMPARABLE = "not_comparable"
    MISSING = "missing"
    IMPROVED = "improved"
    FIXED = "fixed"
    NEW = "new"
    UNCHANGED = "unchanged"


FAILING = frozenset({Verdict.NEWLY_FAILING, Verdict.REGRESSED})
UNPAIRED = frozenset({Verdict.NOT_COMPARABLE, Verdict.MISSING, Verdict.NEW})
_ORDER = list(Verdict)


class Shift(Frozen):
    """One field on both sides."""

    field: str
    base: int | float
    new: int | float
    allowed: float | None = None  # how far it may go; None: nobody judges it
    fails: bool = False  # beyond a --fail-on
    warns: bool = False  # beyond a --warn-on

    @property
    def delta(self) -> float:
        """From base to new; above 0 it grew."""
        return self.new - self.base

    @property
    def share(self) -> float | None:
        """The same as a share of base; None where base is 0."""
        return self.delta / self.base if self.base else None


class Comparison(Frozen):
    """One case on both sides."""

    case_id: str
    label: str
    setting: str
    origin: Origin
    place: str
    verdict: Verdict
    reason: str | None = None  # where numbers do not tell
    shifts: tuple[Shift, ...] = ()  # the fields that moved, those judged first
    peak_phases: tuple[Phase, Phase] | None = None  # when the peak is, on either side
    # Bytes at the peak, from base to new; without zeros.
    by_category: dict[Category, int] = Field(default_factory=dict)
    moves: tuple[Move, ...] | None = None  # None: a side does not say what its peak is made of
    # Those that differ.
    versions: dict[str, tuple[str | None, str | None]] = Field(default_factory=dict)

    @property
    def worst(self) -> Shift | None:
        """The shift that decides the verdict, or the first there is."""
        decisive = [shift for shift in self.shifts if shift.fails]
        return max(
            decisive or self.shifts[:1], key=lambda shift: shift.share or shift.delta, default=None
        )

    @property
    def warned(self) -> bool:
        """Whether a field went beyond its --warn-on."""
        return any(shift.warns for shift in self.shifts)


class Outcome(Frozen):
    """All cases, the worst first."""

    cases: tuple[Comparison, ...]
    fail_on: tuple[str, ...]
    strict: bool = False  # whatever the base does not say fails, too

    @property
    def failures(self) -> tuple[Comparison, ...]:
        """The cases that fail."""
        passing = {Verdict.UNCHANGED} if self.strict else set(Verdict) - FAILING
        return tuple(case for case in self.cases if case.verdict not in passing)

    @property
    def counts(self) -> dict[Verdict, int]:
        """Cases by verdict, without zeros."""
        verdicts = [case.verdict for case in self.cases]
        return {verdict: verdicts.count(verdict) for verdict in Verdict if verdict in verdicts}

    @property
    def exit_code(self) -> int:
        """0 fine, 1 some case fails."""
        return 1 if self.failures else 0


def compare(
    base: Iterable[Subject],
    new: Iterable[Subject],
    *,
    fail_on: Sequence[Threshold] = (DEFAULT,),
    warn_on: Sequence[Threshold] = (),
    strict: bool = False,
) -> Outcome:
    """Judge `new` by `base`, case by case.

    Raises:
        UsageError: nothing could be compared, or no case has a field that is to be judged.
    """
    pairs = pair_up(base, new)
    cases = [_judge(pair, fail_on, warn_on) for pair in pairs]
    _check_something_was_compared(pairs, cases, (*fail_on, *warn_on))
    cases.sort(key=_badness)
    return Outcome(
        cases=tuple(cases), fail_on=tuple(limit.text for limit in fail_on), strict=strict
    )


def _badness(case: Comparison) -> tuple[int, float, str]:
    worst = case.worst
    grown = (worst.share or 0.0) if worst else 0.0
    return _ORDER.index(case.verdict), -abs(grown), case.label


def _check_something_was_compared(
    pairs: Sequence[Pair], cases: Sequence[Comparison], limits: Iterable[Threshold]
) -> None:
    # A pair of failures says nothing of memory, but one that turned into the other does.
    both = [
        (pair.base.measurement, pair.new.measurement)
        for pair in pairs
        if pair.base and pair.new and not pair.apart
    ]
    telling = [case for case in cases if case.verdict in {Verdict.NEWLY_FAILING, Verdict.FIXED}]
    measured = [(base, new) for base, new in both if base and new]
    if not measured and not telling:
        if not any(pair.base and pair.new for pair in pairs):
            raise UsageError(f"compare: no case in common; {_told_apart(pairs)}")
        reasons = [case.reason for case in cases if case.reason]
        why = f"; {reasons[0]}" if reasons else ""
        raise UsageError(f"compare: no case has numbers on both sides{why}")
    for limit in limits:
        field = limit.field
        known = any(field.of(b) is not None and field.of(n) is not None for b, n in measured)
        if measured and not known:
            raise UsageError(f"compare: no case has {field.name} on both sides")


def _told_apart(pairs: Sequence[Pair]) -> str:
    base = [pair.base for pair in pairs if pair.base]
    new = [pair.new for pair in pairs if pair.new]
    return f"the base has {_such_as(base)}; the new side has {_such_as(new)}"


def _such_as(subjects: Sequence[Subject]) -> str:
    if not subjects:
        return "none"
    return f"{len(subjects)}, such as {subjects[0].label} ({subjects[0].setting})"


def _judge(pair: Pair, fail_on: Sequence[Threshold], warn_on: Sequence[Threshold]) -> Comparison:
    base, new = pair.base, pair.new
    shown = pair.either
    found = Comparison(
        case_id=shown.case_id,
        label=shown.label,
        setting=shown.setting,
        origin=shown.origin,
        place=shown.environment.place,
        verdict=Verdict.UNCHANGED,
    )
    if pair.apart is not None:
        return _with(found, verdict=Verdict.NOT_COMPARABLE, reason=pair.apart)
    if base is None:
        return _with(found, verdict=Verdict.NEW, reason="the base does not have it")
    if new is None:
        return _with(found, verdict=Verdict.MISSING, reason="only the base has it")
    shifts = _shifts(base, new, fail_on, warn_on)
    verdict, reason = _verdict(base, new, shifts)
    details = _details(base, new) if shifts else {}
    return _with(found, verdict=verdict, reason=reason, shifts=shifts, **details)


def _with(found: Comparison, **fields: object) -> Comparison:
    return found.model_copy(update=fields)


def _verdict(base: Subject, new: Subject, shifts: Iterable[Shift]) -> tuple[Verdict, str | None]:
    if base.ending is not new.ending:
        reason = f"{_ended(base)} before, {_ended(new)} now"
        better = new.ending is Status.OK
        return (Verdict.FIXED if better else Verdict.NEWLY_FAILING), reason
    judged = [shift for shift in shifts if shift.fails]
    if any(shift.delta > 0 for shift in judged):
        return Verdict.REGRESSED, None
    return (Verdict.IMPROVED if judged else Verdict.UNCHANGED), None


def _ended(subject: Subject) -> str:
    return subject.ending.value + (f" ({subject.reason})" if subject.reason else "")


def _shifts(
    base: Subject, new: Subject, fail_on: Sequence[Threshold], warn_on: Sequence[Threshold]
) -> tuple[Shift, ...]:
    if base.measurement is None or new.measurement is None:
        return ()
    shifts = []
    for name in dict.fromkeys([limit.field.name for limit in (*fail_on, *warn_on)] + [*FIELDS]):
        before, after = FIELDS[name].of(base.measurement), FIELDS[name].of(new.measurement)
        if before is None or after is None or before == after:
            continue
        fail_at, warn_at = (
            min((x.allowed(base, new) for x in limits if x.field.name == name), default=None)
            for limits in (fail_on, warn_on)
        )
        shifts.append(
            Shift(
                field=name,
                base=before,
                new=after,
                allowed=warn_at if fail_at is None else fail_at,
                fails=fail_at is not None and abs(after - before) > fail_at,
                warns=warn_at is not None and after - before > warn_at,
            )
        )
    return tuple(shifts)


def _details(base: Subject, new: Subject) -> dict[str, object]:
    """What moved, for a pair that has numbers on both sides."""
    assert base.measurement is not None
    assert new.measurement is not None
    before, after = base.measurement.peak(), new.measurement.peak()
    was, now = before.by_category or {}, after.by_category or {}
    known = before.by_category is not None and after.by_category is not None
    changes = {c: now.get(c, 0) - was.get(c, 0) for c in Category} if known else {}
    largest = sorted(changes.items(), key=lambda item: -abs(item[1]))
    both_known = bool(base.at_peak and new.at_peak)
    places = [subject.environment for subject in (base, new)]
    versions = {name: (getattr(places[0], name), getattr(places[1], name)) for name in VERSIONS}
    return {
        "peak_phases": (_phase(base), _phase(new)),
        "by_category": {category: size for category, size in largest if size},
        "moves": moved(base.at_peak, new.at_peak) if both_known else None,
        "versions": {name: pair for name, pair in versions.items() if pair[0] != pair[1]},
    }


def _phase(subject: Subject) -> Phase:
    """The phase of the overall peak."""
    assert subject.measurement is not None
    peaks = (
        (memory.peak_allocated_bytes, phase)
        for step in subject.measurement.steps
        for phase, memory in step.items()
    )
    return max(peaks, key=lambda item: item[0])[1]
