"""A real training step of each method, beside full fine-tuning's and the bound: the frozen forward.

python -m benchmarks.bench_training_step [BACKBONE [BATCH [ROUNDS]]]

Methods take turns, round by round, so that whatever else the machine does strikes them alike; the
fastest round of each counts. On a CPU unless there is CUDA.
"""

import sys
import time

import torch

from petl_bench import backbones, method_spec
from petl_bench.assembly import assemble, make_batch
from petl_bench.case import Case, Workload
from petl_bench.profilers.cuda import NoProfiler
from petl_bench.training import make_optimizer, training_step

SPECS = ("full", "adapter", "lora", "bitfit", "prompt", "lst", "lst[checkpoint=true]")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def step_of(case: Case):
    """A function that takes one training step of the case."""
    model = assemble(case, DEVICE).model
    batch = make_batch(case, DEVICE)
    optimizer = make_optimizer(model, case.workload.optimizer)
    return lambda: training_step(model, batch, optimizer, case.workload, NoProfiler())


def forward_of(case: Case):
    """A function that runs the backbone forward alone, in training mode, without a gradient."""
    model = assemble(case, DEVICE).model
    batch = make_batch(case, DEVICE)
    return lambda: torch.no_grad()(model)(**batch)


def seconds(function) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(backbone: str = "t5-small", batch: str = "8", rounds: str = "7") -> None:
    """Print a table."""
    workload = Workload(batch_size=int(batch))
    cases = {
        label: Case(backbone=backbones.find(backbone), method=method, workload=workload)
        for label, method in method_spec.parse_specs(",".join(SPECS))
    }
    ways = {label: step_of(case) for label, case in cases.items()}
    ways["forward alone"] = forward_of(cases["full"])
    for function in ways.values():
        function()
    taken = {label: [] for label in ways}
    for _ in range(int(rounds)):
        for label, function in ways.items():
            taken[label].append(seconds(function))
    best = {label: min(times) for label, times in taken.items()}
    print(
        f"{backbone}, batch {batch}, fp32, {DEVICE}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; fastest of {rounds} rounds"
    )
    print(f"{'':24}{'seconds':>9}{'full / it':>11}{'it / forward':>14}")
    for label, fastest in sorted(best.items(), key=lambda item: -item[1]):
        forward = fastest / best["forward alone"]
        print(f"{label:24}{fastest:9.3f}{best['full'] / fastest:11.2f}{forward:14.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
