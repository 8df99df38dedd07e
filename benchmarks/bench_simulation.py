"""What the ledger costs, beside a plain FakeTensorMode run and a real CPU run of the same steps.

pytest benchmarks --benchmark-only --benchmark-group-by=group

Two training steps of t5-small at batch 8, model building included. Ratios hold within one run on
one machine; operators per second are in extra_info.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from petl_bench import backbones, cards, method_spec
from petl_bench.assembly import assemble, make_batch
from petl_bench.case import Case, Workload
from petl_bench.profilers.cuda import NoProfiler
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.profiler import META, run_ledger, simulate
from petl_bench.training import make_optimizer, training_step

CASE = Case(
    backbone=backbones.find("t5-small"),
    method=method_spec.resolve("full", {}),
    workload=Workload(batch_size=8),
)
CARD = cards.find(cards.DEFAULT_CARD)
STEPS = 2


def train(device: torch.device) -> None:
    """STEPS training steps with nothing watching."""
    trainee = assemble(CASE, device)
    batch = make_batch(CASE, device)
    optimizer = make_optimizer(trainee.model, CASE.workload.optimizer)
    for _ in range(STEPS):
        training_step(trainee.model, batch, optimizer, CASE.workload, NoProfiler())


class CountOperators(TorchDispatchMode):
    """How many operators reach the dispatcher."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count and pass on."""
        del types
        self.count += 1
        return func(*args, **(kwargs or {}))


def operators() -> int:
    """Operators of STEPS steps."""
    with CountOperators() as counter:
        train(torch.device("cpu"))
    return counter.count


def fake() -> None:
    """The steps on fake CPU tensors, as torch.compile's tracing would run them."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        train(torch.device("cpu"))


WAYS = {
    "ledger": lambda: run_ledger(CASE, assemble(CASE, META), CARD, ERAS[None]),
    "ledger, allocator and record": lambda: simulate(CASE, CARD),
    "FakeTensorMode alone": fake,
    "real CPU tensors": lambda: train(torch.device("cpu")),
}


@pytest.mark.benchmark(group="two steps of t5-small, batch 8")
@pytest.mark.parametrize("way", WAYS)
def test_two_steps(benchmark, way):
    """Seconds a case, and operators a second."""
    count = operators()
    benchmark.pedantic(WAYS[way], rounds=3, warmup_rounds=1)
    benchmark.extra_info["operators"] = count
    benchmark.extra_info["operators_per_s"] = round(count / benchmark.stats.stats.min)
