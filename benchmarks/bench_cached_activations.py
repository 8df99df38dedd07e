"""A real training step of a ladder beside its backbone, and fed from disk instead.

python -m benchmarks.bench_cached_activations [BACKBONE [BATCH [ROUNDS [STORE]]]]

The ways take turns, round by round, so that whatever else the machine does strikes them alike; the
fastest round of each counts. On a CPU unless there is CUDA. Files come out of the page cache, as
they do where a data set's activations fit into RAM; a disk's own speed is not in these figures.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from petl_bench.methods.lst import cached_activations

from petl_bench import backbones, method_spec
from petl_bench.assembly import assemble, make_batch
from petl_bench.case import Case, Workload
from petl_bench.profilers.cuda import NoProfiler
from petl_bench.training import make_optimizer, training_step

SPECS = "lst[backbone_dropout=false] lst[backbone_dropout=false,checkpoint=true,attention=sdpa]"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(backbone: str = "t5-small", batch: str = "8", rounds: str = "7", store: str = "full"):
    """Print a table."""
    print(
        f"{backbone}, batch {batch}, fp32, {DEVICE}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; fastest of {rounds} rounds"
    )
    workload = Workload(batch_size=int(batch))
    for spec in SPECS.split():
        ((_, method),) = method_spec.parse_specs(spec)
        case = Case(backbone=backbones.find(backbone), method=method, workload=workload)
        beside, from_disk, written = best_of(case, int(rounds), store)
        print(f"{spec}\n  {'beside its backbone':24}{beside:9.3f} s")
        print(f"  {'from disk':24}{from_disk:9.3f} s{beside / from_disk:9.2f} times faster")
        print(f"  {'a batch on disk':24}{written / 2**20:9.2f} MiB")


def best_of(case: Case, rounds: int, store: str) -> tuple[float, float, int]:
    """Seconds of a step without and with the cache, and the bytes of a batch's file."""
    model = assemble(case, DEVICE).model
    data = make_batch(case, DEVICE)
    optimizer = make_optimizer(model, case.workload.optimizer)
    taken = {"beside": [], "from disk": []}

    def step(way=None):
        start = time.perf_counter()
        training_step(model, data, optimizer, case.workload, NoProfiler())
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        if way is not None:
            taken[way].append(time.perf_counter() - start)

    with TemporaryDirectory() as folder:
        with cached_activations(model, Path(folder), store=store) as use:
            step()
            step()
        written = use.written_bytes
        for _ in range(rounds):
            step("beside")
            with cached_activations(model, Path(folder), store=store) as use:
                step("from disk")
            assert use.hits == 1, "the backbone ran"
    return min(taken["beside"]), min(taken["from disk"]), written


if __name__ == "__main__":
    main(*sys.argv[1:])
