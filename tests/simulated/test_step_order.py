"""The estimate's order of methods, against steps that were timed on a CPU once.

The times are in benchmarks/reference, written by benchmarks/bench_roofline.py: nothing is timed
here, so the answer is exact.
"""

import json
from itertools import combinations
from pathlib import Path
from statistics import median

import pytest

from petl_bench import processors
from petl_bench.profilers.simulated.timing import step_time
from petl_bench.suite import Suite

REFERENCE = Path(__file__).parents[2] / "benchmarks" / "reference"
CPUS = [folder.name.removeprefix("cpu-") for folder in sorted(REFERENCE.glob("cpu-*"))]
BLOCKS = 4


def band(*methods):
    """By how much the median of a quarter of a method's rounds differs from another quarter's."""
    spreads = []
    for seconds in methods:
        size = len(seconds) // BLOCKS
        medians = [median(seconds[n * size : (n + 1) * size]) for n in range(BLOCKS)]
        spreads.append(max(medians) - min(medians))
    return max(spreads)


def read(cpu, name):
    return json.loads((REFERENCE / f"cpu-{cpu}" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("backbone", ["t5-small", "small-bert"])
@pytest.mark.parametrize("cpu", CPUS)
def test_methods_that_differ_by_more_than_the_noise_are_in_order(cpu, backbone):
    measured = read(cpu, f"{backbone}.json")
    seconds = measured["seconds"]
    config = REFERENCE / f"cpu-{cpu}" / f"{backbone}-config.json"
    axes = {
        "backbone": {"name": [str(config) if config.exists() else backbone]},
        "workload": {name: [value] for name, value in measured["workload"].items()},
    }
    plan = {cell.label: cell.case for cell in Suite(methods=[",".join(seconds)], **axes).plan()}
    processor = processors.find(cpu)
    estimated = {spec: step_time(plan[spec], processor).step_s for spec in seconds}
    real = {spec: median(times) for spec, times in seconds.items()}
    decided = [
        (a, b)
        for a, b in combinations(seconds, 2)
        if abs(real[a] - real[b]) > band(seconds[a], seconds[b])
    ]
    assert len(decided) >= 17  # of 21
    wrong = [(a, b) for a, b in decided if (estimated[a] < estimated[b]) != (real[a] < real[b])]
    assert wrong == []
    for spec, times in seconds.items():  # the rates are those of the least disturbed rounds
        assert estimated[spec] == pytest.approx(min(times), rel=0.25)


@pytest.mark.parametrize("cpu", CPUS)
def test_an_entrys_rates_are_those_that_were_timed(cpu):
    timed = read(cpu, "rates.json")
    processor = processors.find(cpu)
    for name in ("flops_per_s", "pack_s", "bytes_per_s", "launch_s"):
        assert getattr(processor, name) == pytest.approx(median(r[name] for r in timed), rel=0.06)
    for kind, each_s in processor.element_s.items():
        assert each_s == pytest.approx(median(r["element_s"][kind] for r in timed), rel=0.06)
