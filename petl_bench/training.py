"""THE training step: every profiler and every method runs this one.

Phases: forward (model and loss) and backward, as often as gradients are accumulated, then
optimizer_step (unscale, clip, step, zero_grad).
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from petl_bench.case import Autocast, Optimizer, Workload, ZeroGrad
from petl_bench.low_bit import adamw_8bit
from petl_bench.record import Phase
from petl_bench.units import MIB


class PhaseProfiler(Protocol):
    """What the step asks of a profiler."""

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        """A context that is entered when `phase` begins and left when it ends.

        A phase may come several times in a step.
        """


_OPTIMIZERS: dict[Optimizer, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    Optimizer.ADAMW: (torch.optim.AdamW, {}),
    Optimizer.ADAMW_FUSED: (torch.optim.AdamW, {"fused": True}),
    Optimizer.ADAMW_LOOP: (torch.optim.AdamW, {"foreach": False}),
    Optimizer.ADAMW_8BIT: (adamw_8bit, {}),
    Optimizer.ADAFACTOR: (torch.optim.Adafactor, {}),
    Optimizer.SGD: (torch.optim.SGD, {}),
}
_ZERO_GRAD: dict[ZeroGrad, dict[str, bool]] = {
    ZeroGrad.DEFAULT: {},
    ZeroGrad.FREE: {"set_to_none": True},
    ZeroGrad.KEEP: {"set_to_none": False},
}
LEARNING_RATE = 1e-4  # small, so that random weights stay finite; memory does not depend on it
AUTOCAST_DTYPES = {Autocast.BF16: torch.bfloat16, Autocast.FP16: torch.float16}


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
    """`optimizer` over the trainable parameters, as its library builds it by default."""
    make, options = _OPTIMIZERS[optimizer]
    return make(trainable(model), lr=LEARNING_RATE, **options)


def make_scaler(model: nn.Module, workload: Workload) -> torch.amp.GradScaler | None:
    """What scales the loss, so that fp16 gradients do not vanish; None where there are none."""
    if workload.autocast is not Autocast.FP16:
        return None
    return torch.amp.GradScaler(next(model.parameters()).device.type)


def autocast(workload: Workload, device: torch.device) -> AbstractContextManager[Any]:
    """The forward pass in the workload's autocast, if it has one."""
    if workload.autocast is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_DTYPES[workload.autocast])


def training_step(  # noqa: PLR0917 - what every step needs
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    workload: Workload,
    profiler: PhaseProfiler,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Forward and backward on each part of the workload's batch, and one optimizer step.

    `batch` is one part, and stands for all of them. `scaler` is what `make_scaler` made.
    """
    device = next(iter(batch.values())).device
    for _ in range(workload.accumulation_steps):
        with profiler.phase(Phase.FORWARD):
            # Only the loss outlives this phase: holding the whole output would keep the logits
            # and the encoder's states alive through backward.
            with autocast(workload, device):
                loss = model(**batch)["loss"]
            if workload.accumulation_steps > 1:
                loss = loss / workload.accumulation_steps
        with profiler.phase(Phase.BACKWARD):
            if scaler is not None:
                loss = scaler.scale(loss)
            loss.backward()
            del loss
    with profiler.phase(Phase.OPTIMIZER_STEP):
        if workload.clip_grad_norm is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            clip_grad_norm_(trainable(model), workload.clip_grad_norm)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad(**_ZERO_GRAD[workload.zero_grad])
