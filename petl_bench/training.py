"""THE training step: every profiler and every method runs this one.

Phases: forward (model and loss), backward, optimizer_step (clip, step, zero_grad).
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from petl_bench.case import Optimizer, Workload, ZeroGrad
from petl_bench.record import Phase
from petl_bench.units import MIB


class PhaseProfiler(Protocol):
    """What the step asks of a profiler."""

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        """A context that is entered when `phase` begins and left when it ends."""


_OPTIMIZERS: dict[Optimizer, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    Optimizer.ADAMW: (torch.optim.AdamW, {}),
    Optimizer.ADAMW_FUSED: (torch.optim.AdamW, {"fused": True}),
    Optimizer.SGD: (torch.optim.SGD, {}),
}
_ZERO_GRAD: dict[ZeroGrad, dict[str, bool]] = {
    ZeroGrad.DEFAULT: {},
    ZeroGrad.FREE: {"set_to_none": True},
    ZeroGrad.KEEP: {"set_to_none": False},
}
LEARNING_RATE = 1e-4  # small, so that random weights stay finite; memory does not depend on it


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that train, tied ones once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_buckets(model: nn.Module) -> tuple[torch.Tensor, ...]:
    """What DistributedDataParallel gathers the gradients of `model` in, beside the gradients.

    One more copy of the trainable bytes, there from the wrapper's construction on: flat tensors,
    one for each dtype's first parameters until they reach 1 MiB, then one whenever they reach
    25 MiB; as with find_unused_parameters, which the LST paper's image runs set (torch/csrc/
    distributed/c10d/reducer.cpp). They are one rank's memory alone: nothing is copied or sent.
    """
    buckets: list[torch.Tensor] = []
    for dtype in dict.fromkeys(parameter.dtype for parameter in trainable(model)):
        limit, filled = MIB, 0
        parameters = [p for p in trainable(model) if p.dtype == dtype]
        for parameter in parameters:
            filled += parameter.numel()
            if filled * dtype.itemsize >= limit or parameter is parameters[-1]:
                buckets.append(torch.empty(filled, dtype=dtype, device=parameter.device))
                limit, filled = 25 * MIB, 0
    return tuple(buckets)


def make_optimizer(model: nn.Module, optimizer: Optimizer) -> torch.optim.Optimizer:
    """`optimizer` over the trainable parameters, as torch builds it by default."""
    make, options = _OPTIMIZERS[optimizer]
    return make(trainable(model), lr=LEARNING_RATE, **options)


def training_step(
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    workload: Workload,
    profiler: PhaseProfiler,
) -> None:
    """One forward, backward and optimizer step on `batch`."""
    with profiler.phase(Phase.FORWARD):
        # Only the loss outlives this line: holding the whole output would keep the logits and
        # the encoder's states alive through backward.
        loss = model(**batch)["loss"]
    with profiler.phase(Phase.BACKWARD):
        loss.backward()
        del loss
    with profiler.phase(Phase.OPTIMIZER_STEP):
        if workload.clip_grad_norm is not None:
            clip_grad_norm_(trainable(model), workload.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad(**_ZERO_GRAD[workload.zero_grad])
