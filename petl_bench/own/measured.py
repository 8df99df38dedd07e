"""A user's own model, measured on the CUDA device of this process."""

import gc
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from petl_bench.environment import measured_environment
from petl_bench.errors import OutOfMemoryError, UsageError
from petl_bench.own import batches, models
from petl_bench.own.batches import Batch
from petl_bench.own.footprint import Footprint
from petl_bench.own.simulated import higher
from petl_bench.own.steps import Step, phases_recognised
from petl_bench.profilers.cuda import CudaProfiler, device_used_bytes, is_refusal, refusal
from petl_bench.record import Measurement, Origin, Phase, PhaseMemory
from petl_bench.training import trainable

WARMUP_STEPS = 1
MEASURED_STEPS = 3
TIMED_STEPS = 10


class MergingProfiler(CudaProfiler):
    """Counters per phase, where a phase may come more than once in a step."""

    def next_step(self) -> None:
        """Phases from here on belong to a new step."""
        self.steps.append(_Highest())


class _Highest(dict[Phase, PhaseMemory]):
    def __setitem__(self, phase: Phase, memory: PhaseMemory) -> None:
        super().__setitem__(phase, higher(self.get(phase), memory))


def measure(
    model: nn.Module | models.Build,
    batch: Batch,
    *,
    optimizer: str | models.MakeOptimizer | models.Several,
    step: Step,
    name: str,
) -> Footprint:
    """What `step` takes on the current CUDA device.

    The process should be fresh: what else lives on the device is counted.

    Raises:
        UsageError: no CUDA device; a model, batch or optimizer that cannot be used.
        OutOfMemoryError: it does not fit.
    """
    if not torch.cuda.is_available():
        raise UsageError("measure: needs a CUDA device and there is none; simulate instead")
    try:
        return _measure(model, batch, optimizer=optimizer, step=step, name=name)
    except RuntimeError as error:
        if not is_refusal(error):
            raise
        raise OutOfMemoryError(refusal(error)) from None


def _measure(
    given: nn.Module | models.Build,
    batch: Batch,
    *,
    optimizer: str | models.MakeOptimizer | models.Several,
    step: Step,
    name: str,
) -> Footprint:
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.synchronize()  # makes the context, which is nobody's tensor
    context_bytes = device_used_bytes(device)
    gc.collect()
    torch.cuda.empty_cache()
    profiler = MergingProfiler()
    profiler.next_step()
    with profiler.phase(Phase.LOAD):
        model = models.on_device(given, device)
    load = profiler.steps.pop()[Phase.LOAD]
    made = batches.on_device(batch, device)
    trained = models.for_step(models.optimizer_for(model, optimizer, given))
    for _ in range(WARMUP_STEPS + MEASURED_STEPS):
        profiler.next_step()
        with phases_recognised(model, profiler):
            step(model, made, trained)
    used_bytes = device_used_bytes(device)
    count = sum(parameter.numel() for parameter in model.parameters())
    return Footprint(
        name=name,
        batch=batches.described(made),
        optimizer=models.optimizer_name(optimizer),
        origin=Origin.MEASURED,
        environment=measured_environment(),
        measurement=Measurement(
            total_parameters=count,
            backbone_parameters=count,
            trainable_parameters=sum(p.numel() for p in trainable(model)),
            load=load,
            steps=tuple(profiler.steps[WARMUP_STEPS:]),
            step_times_s=_times_s(model, made, trained, step),
            device_used_bytes=used_bytes,
            context_bytes=context_bytes,
        ),
    )


def _times_s(model: nn.Module, batch: Batch, optimizer: Any, step: Step) -> tuple[float, ...]:
    """Seconds of steps that no profiler looks at."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED_STEPS + 1)]
    events[0].record()
    for event in events[1:]:
        step(model, batch, optimizer)
        event.record()
    torch.cuda.synchronize()
    return tuple(before.elapsed_time(after) / 1000.0 for before, after in pairwise(events))
