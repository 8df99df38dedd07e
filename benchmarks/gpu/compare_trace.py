"""A recorded trace beside its simulation: compare_trace.py FILE.json.gz ...

Prints whether the model of the allocator replays it, and what the steady step asks for that the
simulation does not, or the other way round: largest first, with the operator and the module.
"""

import sys
from collections import defaultdict
from pathlib import Path

from petl_bench import cards
from petl_bench.units import format_bytes
from petl_bench.verify import traces
from petl_bench.verify.traces import Allocation, Disagreement, Trace

SHOWN = 20


def main(paths: list[Path]) -> int:
    """Compare each; the exit code: 1 if any differs."""
    differing = [path for path in paths if differs(traces.load(path), path.name)]
    return int(bool(differing))


def differs(trace: Trace, name: str) -> bool:
    """Print how `trace` differs from its simulation, and say whether it does."""
    backbone = trace.case.backbone
    print(f"{name}: {trace.label} on {backbone.name}, {backbone.dtype}, {trace.device}")
    steps, alike, first = traces.replayed(trace)
    told = f"; the first that is not: {first}" if first else ""
    print(f"  allocator: {alike} of {steps} steps as recorded{told}")
    simulated = traces.simulated_requests(trace.case, cards.of_device(trace.device))
    found: dict[tuple[object, ...], list[Disagreement]] = defaultdict(list)
    for each in traces.disagreements(trace.requests, simulated):
        found[each.kind].append(each)
    count = sum(map(len, trace.requests.values()))
    places = sum(map(len, found.values()))
    print(f"  requests: {count} of the steady step; the simulation differs in {places} places")
    for alike_ones in sorted(found.values(), key=weight, reverse=True)[:SHOWN]:
        _, after, recorded, ours = each = alike_ones[0]
        print(f"  {len(alike_ones)} x {each.phase}, after {text(after)}:")
        print(f"    recorded {', '.join(map(format_bytes, recorded)) or 'nothing'}")
        print(f"    simulated {', '.join(map(text, ours)) or 'nothing'}")
    return bool(found) or first is not None


def weight(alike: list[Disagreement]) -> int:
    """Bytes that disagreements of one kind are about."""
    each = alike[0]
    return len(alike) * abs(sum(each.recorded) - sum(size for size, *_ in each.simulated))


def text(allocation: Allocation | None) -> str:
    """An allocation in a few words."""
    if allocation is None:
        return "the phase's begin"
    size, operator, module = allocation
    return f"{format_bytes(size)} of {operator}" + (f" in {module}" if module else "")


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
