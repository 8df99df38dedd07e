"""A training step as people write it, and its phases, recognised while it runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from petl_bench.errors import UsageError
from petl_bench.own.batches import Batch
from petl_bench.record import Phase
from petl_bench.training import PhaseProfiler

Loss = Callable[[nn.Module, Batch], torch.Tensor]
Step = Callable[[nn.Module, Batch, torch.optim.Optimizer], object]


def plain_step(loss: Loss | None) -> Step:
    """Forward, `loss.backward()`, `optimizer.step()`, `optimizer.zero_grad()`.

    Without `loss` the model's own is taken: its output's `loss`, or the output if it is a scalar.
    """
    compute = loss or _own_loss

    def step(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        compute(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextmanager
def phases_recognised(model: nn.Module, profiler: PhaseProfiler) -> Iterator[None]:
    """Around one step: tell `profiler` its phases.

    Forward is everything before `backward()` is called, backward that call, and the optimizer's
    step what follows, until the model runs again (as it does where gradients accumulate). A step
    that calls `torch.autograd.grad` instead is all forward.
    """
    under_way = ExitStack()
    now: Phase | None = None

    def switch(phase: Phase) -> None:
        nonlocal now
        under_way.close()
        now = phase
        under_way.enter_context(profiler.phase(phase))

    backward = torch.autograd.backward

    def watched(*args: Any, **options: Any) -> None:
        switch(Phase.BACKWARD)
        backward(*args, **options)
        switch(Phase.OPTIMIZER_STEP)

    def model_runs(_model: nn.Module, _args: Any) -> None:
        if now is Phase.OPTIMIZER_STEP:
            switch(Phase.FORWARD)

    hook = model.register_forward_pre_hook(model_runs)
    try:
        switch(Phase.FORWARD)
        with under_way, patch.object(torch.autograd, "backward", watched):
            yield
    finally:
        hook.remove()


def _own_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    if isinstance(batch, Mapping):
        output = model(**batch)
    elif isinstance(batch, Sequence):
        output = model(*batch)
    else:
        output = model(batch)
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", output)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        shape = f"a tensor of shape {tuple(loss.shape)}" if torch.is_tensor(loss) else "no loss"
        raise UsageError(
            f"loss: the model returned {shape}; give loss=lambda model, batch: ... or a step"
        )
    return loss
