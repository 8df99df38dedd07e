"""What pairs say about the simulation, for people: tables, and one Markdown page."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from petl_bench import cards
from petl_bench.case import Attention, Mode
from petl_bench.record import PROTOCOL_VERSION, Phase, Record, Status
from petl_bench.tables import ABSENT, Cell, Column, Table, status_text, to_markdown
from petl_bench.units import format_bytes
from petl_bench.verify.errors import (
    SCOPES,
    WHOLE_STEP,
    Beside,
    Counter,
    ErrorSummary,
    Ranking,
    Timing,
    Verification,
    differences_of,
)
from petl_bench.verify.pairs import Pair, Setting, settings


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
    told = [
        f"{record.label} on {backbone.name}",
        backbone.dtype,
        f"batch {workload.batch_size}",
        backbone.attention if backbone.attention is not Attention.EAGER else None,
        f"autocast {workload.autocast}" if workload.autocast else None,
        "checkpointing" if workload.checkpointing else None,
        workload.mode if workload.mode is not Mode.TRAINING else None,
    ]
    return ", ".join(filter(None, told))


def overview(verification: Verification) -> list[Table]:
    """What did not end well on both sides, if anything; the errors; the order of the methods."""
    tables = [
        _exceptions_table(verification.exceptions),
        _summary_table(verification.summaries),
        _ranking_table(verification.rankings),
        _timing_table(verification.timings),
        _context_table(verification.contexts),
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


def _timing_table(timings: Iterable[Timing]) -> Table:
    rows = []
    for each in timings:
        bias = median(error for _, error in each.errors)
        method, worst = max(each.errors, key=lambda found: abs(found[1]))
        rows.append(
            (
                Cell(text=each.setting.title),
                Cell(text=str(len(each.errors)), number=len(each.errors)),
                _error_cell(bias),
                _error_cell(worst),
                Cell(text=method),
                Cell(text=f"{each.in_order} of {each.comparisons}", number=each.in_order),
            )
        )
    return Table(
        title="Time a step: the roofline's estimate beside measured",
        caption="Error: estimate / median measured - 1. Bias: the median of the signed errors.",
        columns=_columns(
            "<setting", ">cases", ">bias", ">worst", "<worst method", ">pairs in order"
        ),
        rows=tuple(rows),
    )


def _context_table(contexts: Iterable[Beside]) -> Table:
    rows = tuple(
        (
            Cell(text=each.device),
            Cell(text=when),
            Cell(text=str(len(seen)), number=len(seen)),
            *(
                Cell(text=format_bytes(int(size)), number=int(size))
                for size in (min(seen), median(seen), max(seen))
            ),
            Cell(text=format_bytes(cards.find(each.card).context_bytes)),
        )
        for each in contexts
        for when, seen in (("before the first tensor", each.fresh), ("after steps", each.trained))
        if seen
    )
    return Table(
        title="What a process takes beside its tensors",
        caption="The process's memory by NVML less what PyTorch reserved. The card's is a"
        " simulation's allowance for CUDA's context.",
        columns=_columns("<device", "<when", ">cases", ">least", ">median", ">most", ">the card's"),
        rows=rows,
    )


def _swap_text(swap: tuple[str, str, float]) -> str:
    one, other, apart = swap
    return f"{one} and {other} (measured {_size(apart)} apart)"


def _exceptions_table(pairs: Iterable[Pair]) -> Table:
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
        title="Cases that did not end well on both sides",
        caption="A simulation that is too large for its card agrees with a measured oom.",
        columns=_columns("<case", "<device", "<measured", "<simulated", "<verdict"),
        rows=rows,
    )


def _ending(record: Record | None) -> str:
    if record is None:
        return f"not simulated under protocol {PROTOCOL_VERSION}"
    if record.measurement is None or record.ending is not Status.OK:
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
    found = {d.counter: d for d in differences_of(pair) if d.phase == scope}
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
