"""A trace recorded on a GPU beside the simulation of its case: where the two allocate otherwise.

benchmarks/gpu/record_trace.py records them. The allocator's model is judged apart, by replaying the
recorded stream; here it is the stream itself: what each phase of a steady step asks for, in order.
"""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.assembly import assemble
from petl_bench.cards import Card
from petl_bench.case import Case
from petl_bench.errors import UsageError
from petl_bench.profilers.simulated.allocator.trace import replay
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.profiler import META, run_ledger
from petl_bench.profilers.simulated.provenance import Provenance
from petl_bench.record import Phase


class Allocation(NamedTuple):
    """One request of a simulated step."""

    size: int  # bytes, as requested
    operator: str
    module: str  # that was called, "" outside of any


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What record_trace.py recorded of a case."""

    case: Case
    label: str
    device: str
    phases: tuple[Mapping[str, Any], ...]
    entries: tuple[Mapping[str, Any], ...]  # as PyTorch's snapshots have them

    @property
    def requests(self) -> dict[Phase, list[int]]:
        """Bytes of each allocation of the last step, in its order, by phase."""
        sizes = [entry["size"] for entry in self.entries if entry["action"] == "alloc"]
        last = max(told["step"] for told in self.phases)
        found: dict[Phase, list[int]] = {}
        for told in self.phases:
            if told["step"] == last:
                found.setdefault(Phase(told["phase"]), []).extend(
                    sizes[slice(*told["allocations"])]
                )
        return found


class Disagreement(NamedTuple):
    """What a phase asks for on one side alone, between requests that are alike."""

    phase: Phase
    after: Allocation | None  # the last that both have
    recorded: tuple[int, ...]  # bytes
    simulated: tuple[Allocation, ...]

    @property
    def kind(self) -> tuple[Any, ...]:
        """The same for all layers, which differ in their modules' numbers alone."""
        before = (self.after.size, self.after.operator) if self.after else None
        return self.phase, before, self.recorded, tuple(each[:2] for each in self.simulated)


def load(path: Path) -> Trace:
    """The trace in `path`.

    Raises:
        UsageError: it cannot be read, or is no trace.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            told = json.load(file)
        return Trace(
            case=Case.model_validate(told["case"]),
            label=told["label"],
            device=told["environment"]["device"],
            phases=tuple(told["phases"]),
            entries=tuple(
                dict(zip(("action", "addr", "size", "stream"), entry, strict=True))
                for entry in told["trace"]
            ),
        )
    except OSError as error:
        raise UsageError(f"trace: cannot read {path}: {error.strerror or error}") from None
    except (EOFError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"trace: {path} is none of record_trace.py's: {error!r}") from None


def simulated_requests(case: Case, card: Card) -> dict[Phase, list[Allocation]]:
    """What a steady step of `case` asks for on `card`, in its order, by phase."""
    trainee = assemble(case, META)
    with Provenance(trainee) as provenance:
        ledger = run_ledger(case, trainee, card, ERAS[None], provenance)
    last = max(window.step for window in ledger.windows)
    found: dict[Phase, list[Allocation]] = {}
    for window in ledger.windows:
        if window.step == last and window.phase is not Phase.LOAD:
            found.setdefault(window.phase, []).extend(
                Allocation(
                    ledger.sizes[index],
                    ledger.operators[index],
                    provenance.sites[ledger.sites[index]].module or "",
                )
                for index in ledger.events[window.start : window.stop]
                if index >= 0 and ledger.sizes[index]
            )
    return found


def disagreements(
    recorded: Mapping[Phase, Sequence[int]], simulated: Mapping[Phase, Sequence[Allocation]]
) -> Iterable[Disagreement]:
    """Where the two streams part, in their order; nothing where they are the same."""
    for phase, sizes in recorded.items():
        ours = simulated.get(phase, ())
        matcher = SequenceMatcher(None, sizes, [each.size for each in ours], autojunk=False)
        for kind, start, stop, our_start, our_stop in matcher.get_opcodes():
            if kind != "equal":
                yield Disagreement(
                    phase,
                    ours[our_start - 1] if our_start else None,
                    tuple(sizes[start:stop]),
                    tuple(ours[our_start:our_stop]),
                )


def replayed(trace: Trace) -> tuple[int, int, int | None]:
    """Steps of the allocator, those placed and reserved as recorded, and the first that is not."""
    first, alike, number = None, 0, 0
    for number, step in enumerate(replay(trace.entries), start=1):
        alike += step.agrees
        if first is None and not step.agrees:
            first = number
    return number, alike, first
