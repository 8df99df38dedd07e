"""Step times that the roofline estimates beside real ones on this CPU, method by method.

pytest benchmarks/bench_roofline.py --benchmark-only -s

The machine gets rates of its own, timed here with programs that know no model: a matrix product,
sums of tensors of several sizes, elements of each kind, new memory, a small operator. One thread,
in seconds of its own processor time, least of several rounds in which the methods take turns, so
that what else the machine does counts as little as can be. What is told are ratios and the order.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from petl_bench import backbones
from petl_bench.assembly import assemble, make_batch
from petl_bench.case import Case, Workload
from petl_bench.method_spec import parse_specs
from petl_bench.profilers.cuda import NoProfiler
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.machines import Cpu, Kind
from petl_bench.profilers.simulated.profiler import META, no_collection
from petl_bench.profilers.simulated.roofline import Roofline
from petl_bench.steps import Step

SPECS = ("full", "lora", "adapter", "bitfit", "ia3", "prompt", "lst")
BACKBONES: dict[str, dict[str, Any] | None] = {  # a configuration, where no name stands for it
    "t5-small": None,
    "small-bert": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "small-llama": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1536,
    },
}
WORKLOAD = Workload(batch_size=2, source_length_tokens=128, target_length_tokens=16)
ROUNDS = 3


def seconds(run: Callable[[], object], rounds: int = 9) -> float:
    """Least of several times, after one that does not count."""
    run()
    times = []
    for _ in range(rounds):
        begin = time.thread_time()
        run()
        times.append(time.thread_time() - begin)
    return min(times)


def calibrated() -> Cpu:
    """This machine's rates. What a step finds outside of the caches is found there here, too."""
    torch.set_num_threads(1)
    n, few, many, count = 512, 32, 1_000_000, 128
    square, wide = torch.rand(2 * n, 2 * n), torch.rand(few, n)
    flops_per_s = 2 * (2 * n) ** 3 / seconds(lambda: square @ square)
    cold = [torch.rand(n, n) for _ in range(count)]  # 128 MiB
    narrow_s = seconds(lambda: [wide @ weight for weight in cold]) / count
    triples = list(zip(cold, cold[1:], cold[2:], strict=False))[::3]
    sums_s = seconds(lambda: [torch.add(x, y, out=out) for x, y, out in triples]) / len(triples)
    pairs = list(zip(cold[::2], cold[1::2], strict=True))
    turned_s = seconds(lambda: [out.copy_(x.t()) for x, out in pairs]) / len(pairs)
    large = torch.empty(16_000_000)
    new_s = seconds(lambda: torch.empty(16_000_000).zero_()) - seconds(large.zero_)
    source, out = torch.rand(1000, 1000), torch.empty(1000, 1000)
    mask = source > source.mean()
    kinds: dict[Kind, Callable[[], object]] = {
        Kind.RANDOM: lambda: out.bernoulli_(0.9),
        Kind.EXPONENTIAL: lambda: torch.exp(source, out=out),
        Kind.TANH: lambda: torch.tanh(source, out=out),
        Kind.ROOT: lambda: torch.sqrt(source, out=out),
        Kind.CHOICE: lambda: out.masked_fill_(mask, 0.0),
    }
    element_s = {kind: seconds(run) / many for kind, run in kinds.items()}
    return Cpu(
        flops_per_s=flops_per_s,
        pack_s=(narrow_s - 2 * few * n * n / flops_per_s) / (n * (few + n)),
        bytes_per_s=3 * cold[0].nbytes / sums_s,
        page_s=new_s / large.nbytes,
        launch_s=launch_s(),
        element_s=element_s | {Kind.STRIDED: turned_s / (n * n)},
    )


def launch_s() -> float:
    """A training step of a network too small for its arithmetic to matter, by its operators."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False), torch.rand(1, 4, 8)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        model(x).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    took, kernels = seconds(step), 0

    def note(func: Any, *_: object) -> None:
        nonlocal kernels
        kernels += not func.is_view

    with Ledger(frozenset({"cpu"}), cuda=False) as ledger:
        ledger.on_operator = note
        step()
    return took / kernels


def case(backbone: str, spec: str, folder: Path) -> Case:
    ((_, method),) = parse_specs(spec)
    config = BACKBONES[backbone]
    path = folder / f"{backbone}.json"
    if config is not None:
        path.write_text(json.dumps(config))
    found = backbones.find(backbone if config is None else str(path))
    return Case(backbone=found, method=method, workload=backbones.fitted(found, WORKLOAD))


def estimated(asked: Case, machine: Cpu) -> float:
    """Of the CPU's own operators: none of CUDA's kernels in their place."""
    roofline = Roofline(machine)
    step = Step(assemble(asked, META).model, asked.workload)
    batch = make_batch(asked, META)
    with no_collection(), Ledger(cuda=False) as ledger:
        step.run(batch, NoProfiler())
        ledger.on_operator = roofline.add
        step.run(batch, NoProfiler())
    return roofline.estimate().step_s


def measured(asked: dict[str, Case]) -> dict[str, float]:
    """Processor seconds of a step by method, the least of its rounds."""
    cpu, least = torch.device("cpu"), dict.fromkeys(asked, float("inf"))
    for _ in range(ROUNDS):
        for spec, one in asked.items():
            step, batch = Step(assemble(one, cpu).model, one.workload), make_batch(one, cpu)
            took = seconds(lambda: step.run(batch, NoProfiler()), rounds=2)  # noqa: B023
            least[spec] = min(least[spec], took)
    return least


@pytest.mark.benchmark(group="roofline beside real steps")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_order_of_the_methods(benchmark, backbone, tmp_path):
    machine = calibrated()
    asked = {spec: case(backbone, spec, tmp_path) for spec in SPECS}
    real = measured(asked)
    guess = {spec: estimated(one, machine) for spec, one in asked.items()}
    orders = [sorted(SPECS, key=side.__getitem__) for side in (guess, real)]
    pairs = [(a, b) for i, a in enumerate(SPECS) for b in SPECS[i + 1 :]]
    swapped = [(a, b) for a, b in pairs if (guess[a] < guess[b]) != (real[a] < real[b])]
    print(f"\n{machine}")
    for spec in SPECS:
        ratio = guess[spec] / real[spec]
        print(f"{spec:10} {guess[spec]:8.3f} s estimated {real[spec]:8.3f} s measured {ratio:6.2f}")
    print(f"estimated order: {' '.join(orders[0])}\nmeasured order:  {' '.join(orders[1])}")
    ratios = {spec: guess[spec] / real[spec] for spec in SPECS}
    benchmark.extra_info.update(ratios=ratios, swapped=swapped)
    benchmark.pedantic(lambda: estimated(asked["lora"], machine), rounds=1)
