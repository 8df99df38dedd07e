"""Our own speed: planning, simulating, storing. Ratios belong to one run on one machine.

pytest benchmarks --benchmark-only
"""

from pathlib import Path

import pytest

from petl_bench import backbones, cards, method_spec
from petl_bench.case import Case, Workload
from petl_bench.profilers.simulated.allocator import CachingAllocator
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.store import read_records
from petl_bench.suite import Suite

RECORDS = Path(__file__).parents[1] / "reports/t5-base/records.jsonl"


@pytest.mark.parametrize("method", ["full", "lora", "lst"])
@pytest.mark.parametrize("backbone", ["t5-small", "t5-base", "t5-3b"])
def test_simulate(benchmark, backbone, method):
    """One case, imports apart; the peak goes to extra_info."""
    case = Case(
        backbone=backbones.find(backbone),
        method=method_spec.resolve(method, {}),
        workload=Workload(),
    )
    card = cards.find(cards.DEFAULT_CARD)
    measurement = benchmark.pedantic(simulate, (case, card), rounds=3, warmup_rounds=1)
    benchmark.extra_info["peak_allocated_bytes"] = measurement.peak_allocated_bytes


def test_plan_ten_thousand_cases(benchmark):
    """A grid of 10,000 cells."""
    suite = Suite(
        methods=["full"],
        backbone={"name": ["t5-base"]},
        workload={"batch_size": range(1, 101), "source_length_tokens": range(1, 101)},
    )
    assert len(benchmark.pedantic(suite.plan, rounds=1)) == 10_000  # noqa: PLR2004


def test_allocator_events(benchmark):
    """50,000 allocations and frees of sizes that a training step has."""
    sizes = [512 * (1 + index * 7919 % 4001) ** 2 for index in range(25_000)]

    def churn():
        allocator = CachingAllocator()
        for key, size in enumerate(sizes):
            allocator.malloc(key, size)
            if key >= 200:  # noqa: PLR2004 - tensors alive at a time
                allocator.free(key - 200)

    benchmark.pedantic(churn, rounds=3)


def test_load_records(benchmark):
    """Six records with their timelines."""
    records = benchmark(lambda: list(read_records(RECORDS)))
    assert records
