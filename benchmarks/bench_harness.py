"""Our own speed: planning, simulating, storing. Ratios belong to one run on one machine.

pytest benchmarks --benchmark-only
"""

import copy
import json
import time
from functools import cache, partial
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
from petl_bench.record import Record
from petl_bench.store import load_records, read_records
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


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    """Factory: a store of so many simulated records, all of different cases and numbers.

    The baseline's methods on T5-base at batches of 1 to 100 and lengths of 8 tokens and more, with
    what a step needs growing with both; without timelines, as such stores are written.
    """
    templates = [json.loads(line) for line in BASELINE.read_text(encoding="utf-8").splitlines()]

    @cache
    def write(count):
        folder = tmp_path_factory.mktemp(f"store-{count}")
        with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
            for number in range(count):
                place, template = divmod(number, len(templates))
                file.write(another(templates[template], 1 + place % 100, 8 + 8 * (place // 100)))
        return folder

    return write


def another(record, batch_size, source_length_tokens):
    """A line: `record` at another batch and length, by a law that is good enough for its sizes."""
    record = copy.deepcopy(record)
    record["at_peak"] = []
    workload, found = record["case"]["workload"], record["measurement"]
    workload |= {"batch_size": batch_size, "source_length_tokens": source_length_tokens}
    factor = batch_size * source_length_tokens / (100 * 128)
    record["worker_s"] *= 1 + factor
    if found is not None:
        for memory in (memory for step in found["steps"] for memory in step.values()):
            for name, size in memory.items():
                if isinstance(size, int):
                    memory[name] = int(size * factor)
            parts = {name: int(size * factor) for name, size in memory["by_category"].items()}
            memory |= {"by_category": parts, "peak_allocated_bytes": sum(parts.values())}
        found["flops_per_step"] = int(found["flops_per_step"] * factor)
        found["roofline"]["step_s"] *= factor
    return Record.model_validate(record).model_dump_json() + "\n"


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("count", [10_000, 100_000])
def test_load_and_tabulate(benchmark, large_store, count, held):
    """From JSON Lines to a DataFrame: all records at once, or one after the other.

    100,000 of them are 0.5 GB on disk, and 1.2 GB in memory if they are held. extra_info has the
    processor's seconds for loading and for all of it; on a shared machine they are what counts.
    """
    folder, seconds = large_store(count), [time.process_time()]

    def run():
        records = load_records(folder) if held else read_records(folder)
        seconds.append(time.process_time())
        frame = to_frame(records)
        seconds.append(time.process_time())
        return frame

    seconds[0] = time.process_time()
    frame = benchmark.pedantic(run, rounds=1)
    assert len(frame) == count
    assert frame["case_id"].nunique() == count
    if held:
        benchmark.extra_info["load_cpu_s"] = round(seconds[1] - seconds[0], 2)
    benchmark.extra_info["load_and_tabulate_cpu_s"] = round(seconds[2] - seconds[0], 2)
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
