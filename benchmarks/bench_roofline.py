"""Steps timed on this CPU, for tests/simulated/test_step_order.py to judge the roofline by.

python benchmarks/bench_roofline.py FOLDER [BACKBONE ...]

Writes FOLDER/rates.json, the CPU's rates between backbones, and FOLDER/BACKBONE.json, the steps.
One thread, in seconds of the process's own processor time. A method has a process of its own, as
a user's run has; and the methods take turns, a step each, so that what else the machine does falls
on all of them alike. The C library is told to keep what is freed: docs/speed.md says why.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from petl_bench import backbones
from petl_bench.assembly import assemble, make_batch
from petl_bench.case import Case, Workload
from petl_bench.environment import processor_environment
from petl_bench.method_spec import parse_specs
from petl_bench.profilers.cuda import NoProfiler
from petl_bench.profilers.simulated.calibration import calibrated
from petl_bench.steps import Step

SPECS = ("full", "adapter", "lora", "bitfit", "prompt", "lst", "lst[variant=lean]")
BACKBONES: dict[str, dict[str, Any] | None] = {  # a configuration, where no name stands for it
    "t5-small": None,
    "small-bert": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
}
WORKLOAD_FIELDS = {"batch_size": 2, "source_length_tokens": 128, "target_length_tokens": 16}
WARM_UP = 2
ROUNDS = 12
KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}  # mallopt(3)


def cases(backbone: str, folder: Path) -> dict[str, Case]:
    """The methods on `backbone`, whose configuration `folder` is given where it has no name."""
    config = BACKBONES[backbone]
    path = folder / f"{backbone}-config.json"
    if config is not None:
        path.write_text(json.dumps(config))
    found = backbones.find(backbone if config is None else str(path))
    workload = backbones.fitted(found, Workload(**WORKLOAD_FIELDS))
    specs = [(spec, method) for spec in SPECS for _, method in parse_specs(spec)]
    return {spec: Case(backbone=found, method=method, workload=workload) for spec, method in specs}


def measured(asked: dict[str, Case]) -> dict[str, list[float]]:
    """Processor seconds of a step by method, round by round."""
    runners = {spec: Apart(steps, case) for spec, case in asked.items()}
    took: dict[str, list[float]] = {spec: [] for spec in asked}
    for number in range(WARM_UP + ROUNDS):
        for spec, runner in runners.items():
            seconds = runner.next()
            if number >= WARM_UP:
                took[spec].append(round(seconds, 6))
        print(number, {spec: times[-1:] for spec, times in took.items()}, flush=True)
    for runner in runners.values():
        runner.end()
    return took


class Apart:
    """A generator that runs in a forked process."""

    def __init__(self, run: Callable[..., Iterator[Any]], *args: Any) -> None:
        context = multiprocessing.get_context("fork")
        self._answers, theirs = context.Pipe()
        self._process = context.Process(target=answer, args=(theirs, run, *args), daemon=True)
        self._process.start()

    def next(self) -> Any:
        """What it yields next."""
        self._answers.send(None)
        return self._answers.recv()

    def end(self) -> None:
        """Now, wherever it is."""
        self._process.kill()
        self._process.join()


def answer(asked: Connection, run: Callable[..., Iterator[Any]], *args: Any) -> None:
    values = run(*args)
    while True:
        asked.recv()
        asked.send(next(values))


def steps(case: Case) -> Iterator[float]:
    """Seconds of one after the other."""
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    step, batch = Step(assemble(case, cpu).model, case.workload), make_batch(case, cpu)
    while True:
        begin = time.process_time()
        step.run(batch, NoProfiler())
        yield time.process_time() - begin


def rates() -> Iterator[dict[str, Any]]:
    yield asdict(calibrated())


def calibration() -> dict[str, Any]:
    runner = Apart(rates)
    found: dict[str, Any] = runner.next()
    runner.end()
    return found


def main() -> None:
    if not KEEPS_MEMORY.items() <= os.environ.items():  # read by the library when it starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEPS_MEMORY})  # noqa: S606
    folder, *names = sys.argv[1:]
    out = Path(folder)
    known = [calibration()]
    for name in names or BACKBONES:
        answers = {
            "environment": processor_environment().model_dump(mode="json"),
            "workload": WORKLOAD_FIELDS,
            "seconds": measured(cases(name, out)),
        }
        (out / f"{name}.json").write_text(json.dumps(answers, indent=1) + "\n")
        known.append(calibration())
        (out / "rates.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
