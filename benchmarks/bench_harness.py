"""Our own speed: planning, simulating, storing. Ratios belong to one run on one machine.

pytest benchmarks --benchmark-only
"""

import json
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from petl_bench import backbones, cards, method_spec
from petl_bench.api import compare
from petl_bench.api import simulate as simulate_own
from petl_bench.case import Case, Workload
from petl_bench.comparison import Verdict
from petl_bench.profilers.simulated.allocator import CachingAllocator
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.store import read_records
from petl_bench.suite import Suite
from petl_bench.tables import to_frame

RECORDS = Path(__file__).parents[1] / "reports/t5-base/records.jsonl"
BASELINE = Path(__file__).parent / "baselines/t5-base.jsonl"


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


@pytest.fixture
def large_store(tmp_path):
    """Factory: a store of so many records without timelines, each of a case of its own."""

    def write(count):
        record = json.loads(BASELINE.read_text(encoding="utf-8").splitlines()[0])
        record["at_peak"] = []
        with (tmp_path / "records.jsonl").open("w", encoding="utf-8") as file:
            for number in range(count):
                record["case"]["workload"]["seed"] = number
                file.write(json.dumps(record) + "\n")
        return tmp_path

    return write


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_load_and_tabulate(benchmark, large_store, count):
    """From JSON Lines to a DataFrame; 100,000 records take 0.5 GB on disk and 4.5 in memory."""
    folder = large_store(count)
    frame = benchmark.pedantic(lambda: to_frame(list(read_records(folder))), rounds=1)
    assert len(frame) == count
    benchmark.extra_info["bytes_per_record"] = (folder / "records.jsonl").stat().st_size // count


def test_compare(benchmark, large_store):
    """1,000 cases judged, none of which moved."""
    records = list(read_records(large_store(1_000)))
    outcome = benchmark.pedantic(compare, (records, records), rounds=3)
    assert outcome.counts == {Verdict.UNCHANGED: len(records)}


def test_own_model(benchmark):
    """A perceptron of a user's own, with what its peak is made of."""
    build = partial(nn.Sequential, nn.Linear(784, 4096), nn.ReLU(), nn.Linear(4096, 10))
    found = benchmark.pedantic(
        simulate_own,
        (build, (256, 784)),
        {"loss": lambda model, batch: model(batch).square().mean()},
        rounds=3,
        warmup_rounds=1,
    )
    benchmark.extra_info["peak_allocated_bytes"] = found.peak_allocated_bytes
