"""Record what the caching allocator does in one case of traces.toml: record_trace.py NUMBER FILE.

FILE, JSON packed by gzip, has the case and its place; `trace`, every allocation, free and segment
from the first on, as [action, address, bytes, stream]; and `phases`, each with the number of
allocations before and after it, which tell where in the trace it lies. compare_trace.py reads it.
"""

import gzip
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from petl_bench.assembly import assemble, initialisation, make_batch
from petl_bench.case import Case
from petl_bench.environment import measured_environment
from petl_bench.profilers.cuda import CudaProfiler
from petl_bench.record import Phase
from petl_bench.steps import Step
from petl_bench.suite import load_suite

SUITE = Path(__file__).with_name("traces.toml")
STEPS = 2  # warm-up, and a steady one


class TracedProfiler(CudaProfiler):
    """Notes where in the trace each phase lies."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[dict[str, object]] = []

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """As inherited."""
        before = allocations()
        with super().phase(phase):
            yield
        memory = self.steps[-1][phase]
        self.phases.append(
            {
                "step": len(self.steps) - 1,
                "phase": phase,
                "allocations": [before, allocations()],
                "peak_allocated_bytes": memory.peak_allocated_bytes,
                "peak_reserved_bytes": memory.peak_reserved_bytes,
            }
        )


def allocations() -> int:
    """How many there were so far."""
    count: int = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    return count


def main(number: int, path: Path) -> None:
    """Run the case and write its trace to `path`."""
    planned = load_suite(SUITE).plan()[number]
    torch.cuda.init()
    torch.cuda.memory._record_memory_history("all", context=None)  # noqa: SLF001 - PyTorch's way
    profiler = run(planned.case)
    device = torch.cuda.current_device()
    trace = torch.cuda.memory._snapshot(device)["device_traces"][device]  # noqa: SLF001 - likewise
    told = {
        "case": planned.case.model_dump(mode="json"),
        "label": planned.label,
        "environment": measured_environment().model_dump(mode="json"),
        "phases": profiler.phases,
        "trace": [[e["action"], e.get("addr", 0), e["size"], e["stream"]] for e in trace],
    }
    part = path.with_suffix(".part")
    with gzip.open(part, "wt", encoding="utf-8") as file:
        json.dump(told, file, separators=(",", ":"))
    part.rename(path)


def run(case: Case) -> TracedProfiler:
    """Load, and a few steps; as a measurement does it, less its clearing of the cache."""
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(case.workload.seed)
    trainee = assemble(case, device)
    if initialisation(case) is not None:
        raise SystemExit("a method that prepares itself is not traced")
    batch = make_batch(case, device)
    step = Step(trainee.model, case.workload)
    torch.cuda.empty_cache()
    profiler = TracedProfiler()
    for _ in range(STEPS):
        profiler.next_step()
        step.run(batch, profiler)
    return profiler


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
