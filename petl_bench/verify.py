"""Simulated beside measured: how far the same case's bytes lie apart, phase by phase.

error = simulated / measured - 1, so an under-estimate is below zero: the case that a person rents
too small a card for, which is why those are counted apart. Functions from values to values.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from statistics import median

from petl_bench.record import PROTOCOL_VERSION, Measurement, Origin, Phase, Record, Status
from petl_bench.tables import (
    ABSENT,
    STEP_PHASES,
    Cell,
    Column,
    Table,
    groups,
    status_text,
    to_markdown,
)
from petl_bench.units import format_bytes

WHOLE_STEP = None
"""Stands where a phase could: the highest of all phases."""

SCOPES: tuple[Phase | None, ...] = (WHOLE_STEP, *STEP_PHASES)


class Counter(StrEnum):
    """A counter of the caching allocator that both sides have."""

    PEAK_ALLOCATED = "peak_allocated"
    PEAK_RESERVED = "peak_reserved"
    PEAK_REQUESTED = "peak_requested"


# --------------------------------------------------------------------------------------------
# Pairs, and the bytes they lie apart


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A measured record, and the simulation of its case for the card that was measured on."""

    measured: Record
    simulated: Record | None  # None: there is none

    @property
    def measurements(self) -> tuple[Measurement, Measurement] | None:
        """What was measured and what was simulated, if both sides ended well."""
        measured = self.measured.measurement
        simulated = self.simulated.measurement if self.simulated else None
        return (measured, simulated) if measured and simulated else None

    @property
    def agrees(self) -> bool:
        """Whether both sides ended alike.

        A simulation has no limit of its own, so it agrees on "oom" when its live tensors alone
        are more than the measured device has. An error is no answer, and agrees with nothing.
        """
        if self.simulated is None:
            return False
        if self.measured.status is Status.OOM and self.simulated.measurement:
            room = self.measured.environment.device_total_bytes
            return room is not None and self.simulated.measurement.peak_allocated_bytes > room
        return self.measured.status == self.simulated.status != Status.ERROR


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
class Setting:
    """Pairs of one backbone and workload, measured on one device under one allocator setting."""

    pairs: tuple[Pair, ...]

    @property
    def title(self) -> str:
        """Backbone, workload, device, and the allocator's options if there are any."""
        group = groups(pair.measured for pair in self.pairs)[0]
        options = self.pairs[0].measured.environment.allocator_settings
        return group.title + (f", {options}" if options else "")


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
class Verification:
    """Everything that a set of pairs says about the simulation."""

    pairs: tuple[Pair, ...]
    differences: tuple[Difference, ...]
    summaries: tuple[ErrorSummary, ...]
    rankings: tuple[Ranking, ...]

    @property
    def without_numbers(self) -> list[Pair]:
        """Pairs of which a side did not end well, those that disagree first."""
        return sorted(
            (pair for pair in self.pairs if pair.measurements is None),
            key=lambda pair: pair.agrees,
        )

    @property
    def disagreements(self) -> list[Pair]:
        """Pairs that did not end alike."""
        return [pair for pair in self.without_numbers if not pair.agrees]

    def summary(self, counter: Counter, phase: Phase | None = WHOLE_STEP) -> ErrorSummary | None:
        """The summary of `counter` within `phase`; None if no pair has both numbers."""
        found = [each for each in self.summaries if (each.counter, each.phase) == (counter, phase)]
        return found[0] if found else None


def newest(records: Iterable[Record]) -> list[Record]:
    """One record a case, device and allocator setting: the one made last, in its first one's place.

    Unlike `store.latest` this keeps a case apart that was measured under several allocator
    settings, and goes by date, since the records come from many files.
    """
    found: dict[tuple[str, str, str], Record] = {}
    for record in records:
        place = record.environment
        key = record.case.case_id, place.device, place.allocator_settings
        if key not in found or record.created >= found[key].created:
            found[key] = record
    return list(found.values())


def pair_up(
    measured: Iterable[Record], simulated: Iterable[Record], cards: Mapping[str, str]
) -> list[Pair]:
    """Each measured record beside the simulation of its case on its card and allocator settings.

    `cards` maps the name of a measured device to the card that stands for it. The case's own
    id counts, not the stored one, which an older version may have hashed otherwise.
    """
    by_question = {
        _question(record, record.environment.device): record
        for record in simulated
        if record.origin is Origin.SIMULATED and record.environment.emulates is None
    }
    return [
        Pair(
            measured=record,
            simulated=by_question.get(_question(record, cards[record.environment.device])),
        )
        for record in measured
        if record.origin is Origin.MEASURED
    ]


def _question(record: Record, card: str) -> tuple[str, str, str, int]:
    settings = record.environment.allocator_settings
    return record.case.case_id, card, settings, record.protocol_version


def verify(pairs: Iterable[Pair]) -> Verification:
    """What `pairs` say about the simulation."""
    pairs = tuple(pairs)
    differences = tuple(difference for pair in pairs for difference in _differences(pair))
    return Verification(
        pairs=pairs,
        differences=differences,
        summaries=tuple(_summaries(differences)),
        rankings=tuple(ranking for s in settings(pairs) if (ranking := _ranking(s)).methods > 1),
    )


def settings(pairs: Iterable[Pair]) -> list[Setting]:
    """`pairs` split by backbone, workload, device and allocator settings."""
    members: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        case, place = pair.measured.case, pair.measured.environment
        question = case.backbone.model_dump_json(), case.workload.model_dump_json()
        key = *question, place.device, place.allocator_settings
        members.setdefault(key, []).append(pair)
    return [Setting(pairs=tuple(found)) for found in members.values()]


def peak_bytes(seen: Measurement, counter: Counter, phase: Phase | None) -> int | None:
    """The highest of `counter` within `phase` over all measured steps; None if it is not known."""
    found = [
        getattr(memory, f"{counter}_bytes")
        for step in seen.steps
        for name, memory in step.items()
        if phase is WHOLE_STEP or name == phase
    ]
    return None if not found or None in found else max(found)


def _differences(pair: Pair) -> Iterable[Difference]:
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


def _order(one: int, other: int) -> int:
    return (one > other) - (one < other)


# --------------------------------------------------------------------------------------------
# Tables for people


def finding(verification: Verification) -> str:
    """The key result in a few sentences."""
    whole = verification.summary(Counter.PEAK_ALLOCATED)
    if whole is None:
        return f"None of {_cases(len(verification.pairs))} has numbers on both sides."
    sentences = [_error_sentence(whole), _under_sentence(whole)]
    if verification.rankings:
        alike = sum(not ranking.swapped for ranking in verification.rankings)
        sentences.append(
            f"Methods sort as measured in {alike} of {len(verification.rankings)} settings."
        )
    if apart := len(verification.disagreements):
        sentences.append(f"Ended otherwise than measured, or in an error: {_cases(apart)}.")
    return " ".join(sentences)


def _error_sentence(whole: ErrorSummary) -> str:
    return (
        f"Peak allocated of the whole step, {_cases(whole.count)}:"
        f" median error {_size(whole.median_absolute_error)},"
        f" worst {signed_percent(whole.worst.error)} ({case_name(whole.worst.pair.measured)}),"
        f" bias {signed_percent(whole.bias)}."
    )


def _under_sentence(whole: ErrorSummary) -> str:
    worst = whole.worst_under_estimate
    if worst is None:
        return "Under-estimated: none."
    name = case_name(worst.pair.measured)
    return f"Under-estimated: {whole.under_estimates}, the worst by {_size(-worst.error)} ({name})."


def case_name(record: Record) -> str:
    """The record's case in a few words."""
    backbone, workload = record.case.backbone, record.case.workload
    return f"{record.label} on {backbone.name}, {backbone.dtype}, batch {workload.batch_size}"


def overview(verification: Verification) -> list[Table]:
    """What did not end well on both sides, if anything; the errors; the order of the methods."""
    tables = [
        _without_numbers_table(verification.without_numbers),
        _summary_table(verification.summaries),
        _ranking_table(verification.rankings),
    ]
    return [table for table in tables if table.rows]


def case_tables(verification: Verification, *, phases: bool) -> list[Table]:
    """One table a setting: each case's bytes side by side; with `phases`, a row each, too."""
    scopes = SCOPES if phases else (WHOLE_STEP,)
    tables = [_case_table(setting, scopes) for setting in settings(verification.pairs)]
    return [table for table in tables if table.rows]


def to_report(verification: Verification, command: str) -> str:
    """Everything as one Markdown page; `command` is what made it."""
    parts = [
        "# Simulated beside measured\n",
        f"```sh\n{command}\n```\n",
        f"{finding(verification)}\n",
        *map(to_markdown, overview(verification)),
        "## Environments\n",
        to_markdown(_environment_table(verification.pairs)),
        "## Cases\n",
        *map(to_markdown, case_tables(verification, phases=True)),
    ]
    return "\n".join(parts)


def _summary_table(summaries: Iterable[ErrorSummary]) -> Table:
    rows = []
    for each in summaries:
        under = each.worst_under_estimate
        rows.append(
            (
                Cell(text=each.counter.replace("_", " ")),
                Cell(text=_scope(each.phase)),
                Cell(text=str(each.count), number=each.count),
                Cell(text=_size(each.median_absolute_error), number=each.median_absolute_error),
                _error_cell(each.bias),
                _error_cell(each.worst.error),
                Cell(text=case_name(each.worst.pair.measured)),
                Cell(text=str(each.under_estimates), number=each.under_estimates),
                _error_cell(under.error) if under else Cell(text=ABSENT),
            )
        )
    return Table(
        title="Error by counter and phase",
        caption="Error: simulated / measured - 1. Bias: the median of the signed errors."
        " Worst: by absolute error.",
        columns=_columns(
            "<counter",
            "<phase",
            ">cases",
            ">median error",
            ">bias",
            ">worst",
            "<worst case",
            ">under-estimates",
            ">worst of them",
        ),
        rows=tuple(rows),
    )


def _ranking_table(rankings: Iterable[Ranking]) -> Table:
    rows = []
    for each in rankings:
        kept = each.comparisons - len(each.swapped)
        rows.append(
            (
                Cell(text=each.setting.title),
                Cell(text=str(each.methods), number=each.methods),
                Cell(text=f"{kept} of {each.comparisons}", number=kept),
                Cell(text="; ".join(map(_swap_text, each.swapped)) or ABSENT),
            )
        )
    return Table(
        title="Order of the methods by peak allocated",
        caption="Pairs of methods of which the same one needs more, simulated as measured.",
        columns=_columns("<setting", ">methods", ">pairs in order", "<swapped"),
        rows=tuple(rows),
    )


def _swap_text(swap: tuple[str, str, float]) -> str:
    one, other, apart = swap
    return f"{one} and {other} (measured {_size(apart)} apart)"


def _without_numbers_table(pairs: Iterable[Pair]) -> Table:
    rows = tuple(
        (
            Cell(text=case_name(pair.measured)),
            Cell(text=pair.measured.environment.device),
            Cell(text=_ending(pair.measured)),
            Cell(text=_ending(pair.simulated)),
            Cell(text="agree" if pair.agrees else "disagree"),
        )
        for pair in pairs
    )
    return Table(
        title="Cases without numbers on both sides",
        caption="A simulation agrees on oom when its tensors are more than the device has.",
        columns=_columns("<case", "<device", "<measured", "<simulated", "<verdict"),
        rows=rows,
    )


def _ending(record: Record | None) -> str:
    if record is None:
        return f"not simulated under protocol {PROTOCOL_VERSION}"
    if record.measurement is None:
        return status_text(record)
    return f"ok: {format_bytes(record.measurement.peak_allocated_bytes)} allocated"


def _case_table(setting: Setting, scopes: Sequence[Phase | None]) -> Table:
    numbers = (f">{c.removeprefix('peak_')}{what}" for c in Counter for what in _SIDES)
    return Table(
        title=setting.title,
        caption="Peaks over all measured steps, measured and simulated, and the error.",
        columns=_columns("<method", *(["<phase"] if len(scopes) > 1 else []), *numbers),
        rows=tuple(
            (
                Cell(text=pair.measured.label),
                *([Cell(text=_scope(scope))] if len(scopes) > 1 else []),
                *_side_by_side(pair, scope),
            )
            for pair in setting.pairs
            if pair.measurements
            for scope in scopes
        ),
    )


_SIDES = (" measured", " simulated", " error")


def _side_by_side(pair: Pair, scope: Phase | None) -> list[Cell]:
    found = {d.counter: d for d in _differences(pair) if d.phase == scope}
    cells = []
    for counter in Counter:
        if counter not in found:
            cells += [Cell(text=ABSENT)] * len(_SIDES)
            continue
        each = found[counter]
        sides = each.measured_bytes, each.simulated_bytes
        cells += [Cell(text=format_bytes(size), number=size) for size in sides]
        cells.append(_error_cell(each.error))
    return cells


def _commit(record: Record) -> str | None:
    place = record.environment
    return place.commit and place.commit[:12] + (", changed since" if place.dirty else "")


_PLACE: dict[str, Callable[[Record], str | None]] = {
    "origin": lambda record: record.origin.value,
    "device": lambda record: record.environment.device,
    "torch": lambda record: record.environment.torch,
    "transformers": lambda record: record.environment.transformers,
    "peft": lambda record: record.environment.peft,
    "CUDA": lambda record: record.environment.cuda,
    "driver": lambda record: record.environment.driver,
    "allocator settings": lambda record: record.environment.allocator_settings or "default",
    "python": lambda record: record.environment.python,
    "platform": lambda record: record.environment.platform,
    "petl-bench": lambda record: record.environment.petl_bench,
    "commit": _commit,
}


def _environment_table(pairs: Sequence[Pair]) -> Table:
    records = [pair.measured for pair in pairs]
    records += [pair.simulated for pair in pairs if pair.simulated]
    places = dict.fromkeys(tuple(get(record) for get in _PLACE.values()) for record in records)
    return Table(
        title="Where the numbers come from",
        caption="Versions that differ between the two may move bytes by themselves.",
        columns=_columns(*(f"<{name}" for name in _PLACE)),
        rows=tuple(tuple(Cell(text=text or ABSENT) for text in place) for place in places),
    )


def _columns(*headers: str) -> tuple[Column, ...]:
    """Columns by header, each behind the side that its text keeps to: < or >."""
    return tuple(
        Column(header=header[1:], align="left" if header[0] == "<" else "right")
        for header in headers
    )


def _scope(phase: Phase | None) -> str:
    return "whole step" if phase is WHOLE_STEP else phase.replace("_", " ")


def _error_cell(error: float) -> Cell:
    return Cell(text=signed_percent(error), number=error)


def signed_percent(error: float) -> str:
    """`error` in percent with its sign: "0 %" is exact, "+0.00 %" nearly so."""
    return f"{100 * error:+.2f} %" if error else "0 %"


def _size(error: float) -> str:
    return f"{100 * error:.2f} %" if error else "0 %"


def _cases(count: int) -> str:
    return f"{count} case{'' if count == 1 else 's'}"
