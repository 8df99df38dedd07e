"""One of several processes that really train together: python one_rank.py RANK FOLDER.

`FOLDER/cases.json` lists the cases. What the rank saw of each is written to `rank-RANK.json`:
bytes that it keeps, by kind, and each phase's peak above what was there when the step began, by
torch.profiler.
"""

import gc
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from petl_bench.assembly import assemble, make_batch
from petl_bench.case import Case, Parallel
from petl_bench.profilers.simulated.cuda_semantics import CudaKernels, foreach_by_default
from petl_bench.record import Phase
from petl_bench.steps import Step

CPU = torch.device("cpu")


def held_bytes(tensors):
    """Bytes of the storages under `tensors`, each once."""
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors if t is not None]
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in local)}.values())


class Annotate:
    """Phases, for the profiler and for what is there when the optimizer begins."""

    def __init__(self, model):
        self.model = model
        self.kept = {}

    @contextmanager
    def phase(self, phase):
        if phase is Phase.OPTIMIZER_STEP:
            parameters = list(self.model.parameters())
            self.kept["parameters"] = held_bytes(parameters)
            self.kept["gradients"] = held_bytes([p.grad for p in parameters])
        with torch.profiler.record_function(f"phase:{phase}"):
            yield


def parallelised(case, trainee, mesh):
    """As the tutorials of torch do it."""
    if case.workload.parallel is Parallel.DDP:
        as_view = case.workload.gradient_as_bucket_view
        return DistributedDataParallel(trainee.model, gradient_as_bucket_view=as_view)
    reshard = case.workload.reshard_after_forward
    for stack in trainee.ports.stacks:
        for layer in stack.layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(trainee.model, mesh=mesh)
    return trainee.model


def trained(case, mesh):
    """What one rank keeps, and its phases' peaks in one step."""
    trainee = assemble(case, CPU)
    model = parallelised(case, trainee, mesh)
    batch = make_batch(case, CPU)
    annotate = Annotate(model)
    gc.collect()
    gc.disable()
    try:
        with foreach_by_default("cpu"), CudaKernels():
            step = Step(model, case.workload)
            for _ in range(case.workload.unsteady_steps):
                step.run(batch, annotate)
            activities = [torch.profiler.ProfilerActivity.CPU]
            with torch.profiler.profile(activities=activities, profile_memory=True) as run:
                step.run(batch, annotate)
    finally:
        gc.enable()
    states = [v for s in step.optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    annotate.kept["optimizer_state"] = held_bytes([state for state in states if state.dim()])
    return {"kept": annotate.kept, "peaks": peaks(run.profiler.kineto_results.events())}


def peaks(events):
    """Bytes above the step's start at each phase's highest moment."""
    spans = {
        e.name().removeprefix("phase:"): (e.start_ns(), e.end_ns())
        for e in events
        if e.name().startswith("phase:")
    }
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    highest, live = dict.fromkeys(spans, 0), 0
    for at, change in changes:
        live += change
        for phase, (begin, end) in spans.items():
            if at < begin:
                highest[phase] = live
            elif at <= end:
                highest[phase] = max(highest[phase], live)
    return highest


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    cases = [Case.model_validate(case) for case in json.loads((folder / "cases.json").read_text())]
    world_size = cases[0].workload.world_size
    torch.distributed.init_process_group(
        "gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=world_size
    )
    mesh = DeviceMesh("cpu", list(range(world_size)))
    seen = [trained(case, mesh) for case in cases]
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()
