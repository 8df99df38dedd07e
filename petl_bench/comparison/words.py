"""A verdict in sentences, the same for terminal, page, test message and annotation."""

from collections.abc import Iterable, Iterator, Sequence

from petl_bench.comparison.composition import Move
from petl_bench.comparison.fields import FIELDS
from petl_bench.comparison.verdicts import Comparison, Outcome, Shift
from petl_bench.record import Phase
from petl_bench.units import format_bytes

MOST_MOVES = 5  # named; the rest is counted


def headline(case: Comparison) -> str:
    """What became of the case, in one sentence."""
    if case.reason is not None:
        return f"{case.label}: {case.verdict.replace('_', ' ')}: {case.reason}"
    worst = case.worst
    if worst is None:
        return f"{case.label}: {case.verdict}"
    return f"{case.label}: {case.verdict}: {shift_text(worst)}{_when(case, worst)}"


def shift_text(shift: Shift) -> str:
    """One field: by how much it moved, and from where to where."""
    field = FIELDS[shift.field]
    share = "" if shift.share is None else f", {share_text(shift.share)}"
    before, after = both_texts(shift)
    return f"{field.title} {field.text(shift.delta, signed=True)}{share} ({before} to {after})"


def both_texts(shift: Shift) -> tuple[str, str]:
    """Base and new; all their digits where rounding would make them look the same."""
    field = FIELDS[shift.field]
    before, after = field.text(shift.base), field.text(shift.new)
    return (before, after) if before != after else (f"{shift.base:,}", f"{shift.new:,}")


def share_text(share: float) -> str:
    """A signed percent."""
    return f"{share * 100:+.3g} %"


def details(case: Comparison) -> list[str]:
    """What moved: other fields that were judged, categories, and the tensors behind them."""
    worst = case.worst
    lines = [shift_text(shift) for shift in case.shifts if shift.fails and shift is not worst]
    lines += [f"warning: {shift_text(shift)}" for shift in case.shifts if shift.warns]
    if case.by_category:
        sizes = (f"{_signed(size)} {category}" for category, size in case.by_category.items())
        lines.append(f"at the peak: {', '.join(sizes).replace('_', ' ')}")
    lines += _moves(case.moves or ())
    if case.versions:
        changed = (f"{name} {was} to {now}" for name, (was, now) in case.versions.items())
        lines.append(f"versions: {', '.join(changed)}")
    return lines


def _moves(moves: Sequence[Move]) -> Iterator[str]:
    """The largest that came, went or changed their size; then what remains of the difference."""
    named = [move for move in moves if not move.is_placement]
    yield from map(move_text, named[:MOST_MOVES])
    if rest := named[MOST_MOVES:]:
        yield f"and {len(rest)} smaller ones, {_signed(_total(rest))} together"
    if placed := [move for move in moves if move.is_placement]:
        yield f"{_signed(_total(placed))} by tensors that stayed, in other blocks of the allocator"


def _total(moves: Iterable[Move]) -> int:
    return sum(move.allocated_bytes for move in moves)


def move_text(move: Move) -> str:
    """Tensors that came or went, and where."""
    come = move.allocated_bytes > 0 or (move.allocated_bytes == 0 and move.tensors > 0)
    count = abs(move.tensors)
    what = "resized" if not count else f"{count} {'more' if come else 'fewer'}"
    tensors = "tensor" if count == 1 else "tensors"
    made = f"{move.operator}{' in backward' if move.in_backward else ''}"
    line = f" at {move.source}" if move.source else ""
    category = move.category.replace("_", " ")
    moved = f"{_signed(move.allocated_bytes)} {category} in {move.module}"
    return f"{moved}: {what} {tensors} by {made}{line}"


def summary(outcome: Outcome) -> str:
    """How many of each verdict, in one sentence."""
    total = len(outcome.cases)
    counts = (f"{count} {verdict.replace('_', ' ')}" for verdict, count in outcome.counts.items())
    judged = ", ".join(outcome.fail_on)
    return f"{total} case{'s' * (total != 1)}: {', '.join(counts)} (fails on {judged})."


def message(case: Comparison) -> str:
    """Headline and details, a line each."""
    return "\n".join([headline(case), *(f"  {line}" for line in details(case))])


def _when(case: Comparison, shift: Shift) -> str:
    if not shift.field.startswith("peak") or case.peak_phases is None:
        return ""
    before, after = (_phase_text(phase) for phase in case.peak_phases)
    return f", in {after}" if before == after else f", in {after} now, in {before} before"


def _phase_text(phase: Phase) -> str:
    return phase.replace("_", " ")


def _signed(size: int) -> str:
    return ("+" if size > 0 else "") + format_bytes(size)
