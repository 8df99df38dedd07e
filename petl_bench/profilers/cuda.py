"""Measured: what a step takes on the CUDA device of this process.

The process must be fresh, so that no other case's cache, workspaces or fragments are in the
count. Two passes run the same step: one reads the allocator's counters at each phase border, one
is timed with CUDA events and has no profiler in it.
"""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pynvml
import torch
from torch.utils.flop_counter import FlopCounterMode

from petl_bench.assembly import Trainee, assemble, initialisation, make_batch
from petl_bench.case import Case
from petl_bench.errors import OutOfMemoryError
from petl_bench.record import Measurement, Phase, PhaseMemory
from petl_bench.steps import Step


class CudaProfiler:
    """Allocator peaks per phase; `steps` grows by one dictionary a step."""

    def __init__(self) -> None:
        self.steps: list[dict[Phase, PhaseMemory]] = []

    def next_step(self) -> None:
        """Phases from here on belong to a new step."""
        self.steps.append({})

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Peaks restart when `phase` begins and are read when it ends."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        yield
        torch.cuda.synchronize()
        memory = _phase_memory(time.perf_counter() - begin)
        before = self.steps[-1].get(phase)
        self.steps[-1][phase] = before.then(memory) if before else memory


class NoProfiler:
    """A profiler that does nothing, for the timed pass."""

    def phase(self, phase: Phase) -> nullcontext[None]:
        """An empty context."""
        del phase
        return nullcontext()


def measure(case: Case) -> Measurement:
    """Run `case` on the current CUDA device of this fresh process.

    Raises:
        OutOfMemoryError: it does not fit; the error has the bytes that were refused.
    """
    refused: list[int] = []
    torch._C._cuda_attach_out_of_memory_observer(  # type: ignore[attr-defined]  # noqa: SLF001
        lambda device, requested, total, free: refused.append(requested)  # noqa: ARG005
    )
    try:
        return _measure(case)
    except RuntimeError as error:
        if not is_refusal(error):
            raise
        requested_bytes = refused[-1] if refused else None
        raise OutOfMemoryError(refusal(error), requested_bytes=requested_bytes) from None


def is_refusal(error: RuntimeError) -> bool:
    """Whether the device had no memory left, whoever asked for it.

    Where PyTorch holds nearly all of it, loading a kernel or making a handle is what fails, in
    words of CUDA's, cuBLAS's or cuDNN's own.
    """
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error)
        for words in (
            "CUDA error: out of memory",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "CUDNN_STATUS_ALLOC_FAILED",
            "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        )
    )


def refusal(error: RuntimeError) -> str:
    """What was refused, in the first sentence of what PyTorch says of it."""
    return (str(error).partition(". GPU")[0].splitlines() or ["out of memory"])[0]


def _measure(case: Case) -> Measurement:
    device = _device()
    torch.cuda.synchronize()  # makes the context, which is nobody's tensor
    context_bytes = device_used_bytes(device)
    trainee, load = _load(case, device)
    initialise = _initialise(case, trainee, device)
    batch = make_batch(case, device)
    step = Step(trainee.model, case.workload)

    profiler = CudaProfiler()
    for _ in range(case.workload.warmup_steps + case.workload.measured_steps):
        profiler.next_step()
        step.run(batch, profiler)
    used_bytes = device_used_bytes(device)

    times_s = _time_steps(step, batch)
    return Measurement(
        total_parameters=trainee.total_parameters,
        backbone_parameters=trainee.backbone_parameters,
        trainable_parameters=trainee.trainable_parameters,
        load=load,
        initialise=initialise,
        steps=tuple(profiler.steps[case.workload.warmup_steps :]),
        flops_per_step=_count_flops(step, batch),
        step_times_s=times_s,
        device_used_bytes=used_bytes,
        context_bytes=context_bytes,
    )


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def _load(case: Case, device: torch.device) -> tuple[Trainee, PhaseMemory]:
    torch.manual_seed(case.workload.seed)
    _reset()
    begin = time.perf_counter()
    trainee = assemble(case, device)
    torch.cuda.synchronize()
    load = _phase_memory(time.perf_counter() - begin)
    _reset()  # what initialisation left in the cache is not the training step's
    return trainee, load


def _initialise(case: Case, trainee: Trainee, device: torch.device) -> PhaseMemory | None:
    run = initialisation(case)
    if run is None:
        return None
    begin = time.perf_counter()
    run(trainee, device)
    torch.cuda.synchronize()
    memory = _phase_memory(time.perf_counter() - begin)
    _reset()  # nor is this
    return memory


def _reset() -> None:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    # After empty_cache: the reserved peak restarts at what is reserved now.
    torch.cuda.reset_peak_memory_stats()


def _phase_memory(elapsed_s: float) -> PhaseMemory:
    stats = torch.cuda.memory_stats()
    return PhaseMemory(
        peak_allocated_bytes=stats["allocated_bytes.all.peak"],
        peak_reserved_bytes=stats["reserved_bytes.all.peak"],
        end_allocated_bytes=stats["allocated_bytes.all.current"],
        peak_requested_bytes=stats["requested_bytes.all.peak"],
        elapsed_s=elapsed_s,
    )


def _time_steps(step: Step, batch: dict[str, torch.Tensor]) -> tuple[float, ...]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(step.workload.timed_steps + 1)]
    events[0].record()
    for event in events[1:]:
        step.run(batch, NoProfiler())
        event.record()
    torch.cuda.synchronize()
    return tuple(
        before.elapsed_time(after) / 1000.0  # milliseconds
        for before, after in pairwise(events)
    )


def _count_flops(step: Step, batch: dict[str, torch.Tensor]) -> int | None:
    """FLOPs of one step; None where only the counting does not fit, or knows no formula.

    Under the counter, a dispatch mode, autograd sums gradients out of place and needs more memory.
    PyTorch's formulas refuse shapes that its kernels take: fewer heads of keys than of queries.
    """
    try:
        with FlopCounterMode(display=False) as counter:
            step.run(batch, NoProfiler())
    except (torch.OutOfMemoryError, AssertionError):
        return None
    flops: int = counter.get_total_flops()
    return flops


def device_used_bytes(device: torch.device) -> int | None:
    """NVML's memory of this process on `device`; None where NVML does not tell processes apart."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return _own_bytes(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _own_bytes(processes: list[Any]) -> int | None:
    # Inside a container NVML lists host process ids, among which this one may not be found.
    own = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    return own[0] if own else None
