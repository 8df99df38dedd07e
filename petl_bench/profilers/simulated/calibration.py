"""The rates of the CPU that this runs on, timed with programs that know no model.

One thread, in seconds of its own processor time, least of several rounds, so that what else the
machine does counts as little as can be.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from petl_bench.environment import processor_environment
from petl_bench.processors import Kind, Processor
from petl_bench.profilers.simulated.ledger import Ledger

SIDE = 512  # of the matrices, a MiB each
COUNT = 128  # of them: more than the caches hold, as a step's tensors mostly are
FEW_ROWS = 32
ELEMENTS = 1_000_000


def calibrated(name: str = "here") -> Processor:
    """This machine, called `name`, in about ten seconds; sets torch to one thread."""
    torch.set_num_threads(1)
    square, few = torch.rand(2 * SIDE, 2 * SIDE), torch.rand(FEW_ROWS, SIDE)
    flops_per_s = 2 * (2 * SIDE) ** 3 / _seconds(lambda: square @ square)
    cold = [torch.rand(SIDE, SIDE) for _ in range(COUNT)]
    narrow_s = _seconds(lambda: [few @ weight for weight in cold]) / COUNT
    triples = list(zip(cold, cold[1:], cold[2:], strict=False))[::3]
    sums_s = _seconds(lambda: [torch.add(x, y, out=out) for x, y, out in triples]) / len(triples)
    pairs = list(zip(cold[::2], cold[1::2], strict=True))
    turned_s = _seconds(lambda: [out.copy_(x.t()) for x, out in pairs]) / len(pairs)
    return Processor(
        name=name,
        title=processor_environment().device,
        flops_per_s=flops_per_s,
        pack_s=(narrow_s - 2 * FEW_ROWS * SIDE**2 / flops_per_s) / (SIDE * (FEW_ROWS + SIDE)),
        bytes_per_s=3 * cold[0].nbytes / sums_s,
        launch_s=_launch_s(),
        element_s=_element_s() | {Kind.STRIDED: turned_s / SIDE**2},
    )


def _element_s() -> dict[Kind, float]:
    """Seconds an element, by kind."""
    source, out = torch.rand(ELEMENTS), torch.empty(ELEMENTS)
    mask = source > source.mean()
    kinds: dict[Kind, Callable[[], object]] = {
        Kind.RANDOM: lambda: out.bernoulli_(0.9),
        Kind.EXPONENTIAL: lambda: torch.exp(source, out=out),
        Kind.ERROR_FUNCTION: lambda: torch.erf(source, out=out),
        Kind.TANH: lambda: torch.tanh(source, out=out),
        Kind.ROOT: lambda: torch.sqrt(source, out=out),
        Kind.CHOICE: lambda: out.masked_fill_(mask, 0.0),
    }
    return {kind: _seconds(run) / ELEMENTS for kind, run in kinds.items()}


def _launch_s() -> float:
    """A training step of a network too small for its arithmetic to matter, by its operators."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False), torch.rand(1, 4, 8)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        model(x).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    took, kernels = _seconds(step), 0

    def note(func: Any, *_: object) -> None:
        nonlocal kernels
        kernels += not func.is_view

    with Ledger(frozenset({"cpu"}), cuda=False) as ledger:
        ledger.on_operator = note
        step()
    return took / kernels


def _seconds(run: Callable[[], object], rounds: int = 9) -> float:
    """Least of several times, after one that does not count."""
    run()
    times = []
    for _ in range(rounds):
        begin = time.thread_time()
        run()
        times.append(time.thread_time() - begin)
    return min(times)
