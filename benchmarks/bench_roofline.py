"""Step times that the roofline estimates beside real ones on this CPU, method by method.

pytest benchmarks/bench_roofline.py --benchmark-only -s

The machine gets a card of its own: rates of a matrix product, of a sum of large tensors and of a
small operator, timed here. t5-small, fp32, batch 2, two threads or what OMP_NUM_THREADS says. What
is told are ratios and the order of the methods; it depends on the machine's load.
"""

import time
from statistics import median

import pytest
import torch

from petl_bench import backbones
from petl_bench.assembly import assemble, make_batch
from petl_bench.cards import CARDS, DEFAULT_CARD
from petl_bench.case import Case, Workload
from petl_bench.method_spec import parse_specs
from petl_bench.profilers.cuda import NoProfiler
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.profiler import META, run_ledger
from petl_bench.steps import Step

SPECS = ("full", "lora", "adapter", "bitfit", "ia3", "prompt", "lst")
WORKLOAD = Workload(batch_size=2, source_length_tokens=128, target_length_tokens=16)
REPEATS = 7


def seconds(run) -> float:
    """Median of some runs, after one that does not count."""
    run()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return median(times)


@pytest.fixture(scope="module")
def this_machine():
    """A card whose rates are this CPU's."""
    n, long = 1024, 16_000_000
    a, b = torch.rand(n, n), torch.rand(n, n)
    x, y, out = torch.rand(long), torch.rand(long), torch.empty(long)
    small = torch.rand(16, requires_grad=True)
    rates = {
        "fp32_flops_per_s": 2 * n**3 / seconds(lambda: a @ b),
        "half_flops_per_s": 2 * n**3 / seconds(lambda: a.bfloat16() @ b.bfloat16()),
        "bandwidth_bytes_per_s": 3 * 4 * long / seconds(lambda: torch.add(x, y, out=out)),
        "launch_s": seconds(lambda: [small + 1.0 for _ in range(1000)]) / 1000,
    }
    fields = {**vars(CARDS[DEFAULT_CARD]), "name": "cpu", "title": "this CPU", **rates}
    return type(CARDS[DEFAULT_CARD])(**fields)


def case(spec: str) -> Case:
    ((_, method),) = parse_specs(spec)
    return Case(backbone=backbones.find("t5-small"), method=method, workload=WORKLOAD)


def estimated(spec: str, card) -> float:
    asked = case(spec)
    _, roofline = run_ledger(asked, assemble(asked, META), card, ERAS[None])
    return roofline.estimate().step_s


def measured(spec: str) -> float:
    cpu = torch.device("cpu")
    asked = case(spec)
    step = Step(assemble(asked, cpu).model, WORKLOAD)
    batch = make_batch(asked, cpu)
    return seconds(lambda: step.run(batch, NoProfiler()))


@pytest.mark.benchmark(group="roofline beside real steps")
def test_order_of_the_methods(benchmark, this_machine):
    found = {spec: (estimated(spec, this_machine), measured(spec)) for spec in SPECS}
    orders = [sorted(SPECS, key=lambda spec: found[spec][side]) for side in (0, 1)]
    pairs = [(a, b) for i, a in enumerate(SPECS) for b in SPECS[i + 1 :]]
    swapped = [
        (a, b) for a, b in pairs if (found[a][0] < found[b][0]) != (found[a][1] < found[b][1])
    ]
    print(f"\n{this_machine.fp32_flops_per_s / 1e9:.0f} GFLOP/s,", end=" ")
    print(f"{this_machine.bandwidth_bytes_per_s / 1e9:.1f} GB/s,", end=" ")
    print(f"{this_machine.launch_s * 1e6:.1f} us an operator")
    for spec, (guess, real) in found.items():
        print(f"{spec:10} {guess:8.3f} s estimated {real:8.3f} s measured {guess / real:6.2f}")
    print(f"estimated order: {' '.join(orders[0])}\nmeasured order:  {' '.join(orders[1])}")
    benchmark.extra_info.update(ratios={s: g / r for s, (g, r) in found.items()}, swapped=swapped)
    benchmark.pedantic(lambda: estimated("lora", this_machine), rounds=1)
