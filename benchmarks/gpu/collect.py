"""Measure the suites of this folder on this machine's GPU: records under benchmarks/reference/CARD.

benchmarks/gpu/collect.sh CARD [SUITE ...]

Suites are run in the order of their worth, each into a folder of its own. The same command goes
on where the last one was stopped, by --minutes, Ctrl-C or the machine; it runs again what ended in
an error, and nothing else.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from petl_bench import cards, lane
from petl_bench.assembly import unsupported
from petl_bench.executors import start
from petl_bench.record import Origin, Record
from petl_bench.runner import Runner
from petl_bench.store import Store
from petl_bench.suite import load_suite
from petl_bench.units import format_bytes
from petl_bench.verify.tables import case_name

HERE = Path(__file__).resolve().parent
TRACES = "traces"  # a suite whose cases are traced, not measured
SUITES = (
    "t5-small",
    TRACES,
    "t5-base",
    "bert-base",
    "llama-3.2-1b",
    "clip-t5-gqa",
    "sdpa",
    "t5-large",
    "roberta-large",
    "bert-base-autocast",
    "llama-3.2-1b-autocast",
    "llama-3.2-3b",
    "t5-base-inference",
    "t5-3b",
    "roberta-large-autocast",
    "clip-t5-others",
    "llama-3.2-3b-autocast",
)
MISLEADING = (
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
)
"""Variables that change what is measured, which no record would say. Some images set them."""


class Ended(NamedTuple):
    """How many cases of a suite there are records of, and how those ended."""

    cases: int
    statuses: Counter[str]


def main() -> int:
    """Collect as the command line says; the exit code: 1 if a case ended in an error."""
    options = _options()
    if options.plan:
        return _print_plan(options.suites)
    for name in MISLEADING:
        if os.environ.pop(name, None) is not None:
            print(f"{name} is set and changes what is measured: taken out")
    if not options.simulated and not torch.cuda.is_available():
        print("needs a CUDA device and there is none; --simulated rehearses", file=sys.stderr)
        return 2
    folder = options.reference / options.card
    folder.mkdir(parents=True, exist_ok=True)
    ended: dict[str, Ended] = {}
    try:
        with _deadline(options.minutes):
            _collect(options, folder, ended)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it left off")
    finally:
        if options.archive:
            _archive(folder, options.archive)
    print()
    for suite, (cases, statuses) in ended.items():
        told = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        print(f"{suite}: {statuses.total()} of {cases}: {told}")
    return int(any(statuses["error"] for _, statuses in ended.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="collect.sh", description=str(__doc__).splitlines()[0])
    parser.add_argument("card", metavar="CARD", help="names the folder; a petl-bench card's name")
    parser.add_argument(
        "suites", metavar="SUITE", nargs="*", default=SUITES, help="its name here, or a TOML file"
    )
    parser.add_argument(
        "--plan", action="store_true", help="count the cases and stop; needs no GPU"
    )
    parser.add_argument(
        "--simulated", action="store_true", help="rehearse: simulate CARD; needs no GPU"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="stop after so many, and lose one case at most"
    )
    parser.add_argument(
        "--case-seconds", type=float, default=120.0, help="when a case counts as hung (%(default)s)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        default=HERE.parent / "reference",
        help="where the folder CARD lies (%(default)s)",
    )
    parser.add_argument("--archive", type=Path, help="pack the folder into this .tar.xz at the end")
    options = parser.parse_intermixed_args()
    if options.simulated and options.card not in cards.CARDS:
        parser.error(f"CARD: only {', '.join(cards.CARDS)} can be simulated")
    for suite in options.suites:
        if suite not in SUITES and not Path(suite).is_file():
            parser.error(f"SUITE: no suite and no file {suite!r}; suites: {', '.join(SUITES)}")
    return options


def _file(suite: str) -> Path:
    return HERE / f"{suite}.toml" if suite in SUITES else Path(suite)


def _print_plan(suites: Sequence[str]) -> int:
    """Plan everything, so that what cannot be planned is known before there is a GPU."""
    total = 0
    for suite in suites:
        plan = load_suite(_file(suite)).plan()
        total += len(plan)
        print(f"{suite}: {len(plan)} cases")
        for planned in plan:
            if reason := unsupported(planned.case):
                print(f"  {planned.label} on {planned.case.backbone.name} will not run: {reason}")
    print(f"{total} cases")
    return 0


def _collect(options: argparse.Namespace, folder: Path, ended: dict[str, Ended]) -> None:
    origin = Origin.SIMULATED if options.simulated else Origin.MEASURED
    # Where it is measured, the device says its own name.
    card = cards.find(options.card if options.simulated else cards.DEFAULT_CARD)
    lane.CASE_TIMEOUT_S = options.case_seconds
    if origin is Origin.MEASURED:
        _probe(folder)
    with start("local", 1, origin, folder) as executor:
        runner = Runner(origin=origin, card=card, executor=executor)
        for suite in options.suites:
            if suite != TRACES:
                ended[suite] = Ended(0, Counter())
                _run(runner, suite, folder / Path(suite).stem, ended)
            elif origin is Origin.MEASURED:
                ended[suite] = Ended(0, Counter())
                _trace(folder / TRACES, options.case_seconds, ended)


def _run(runner: Runner, suite: str, folder: Path, ended: dict[str, Ended]) -> None:
    plan = load_suite(_file(suite)).plan()
    ended[suite] = Ended(len(plan), Counter())
    begin = time.monotonic()
    for record in runner.run(plan, Store(folder, timelines=False), lambda *_: None):
        ended[suite].statuses[record.status] += 1
        print(
            f"{time.monotonic() - begin:6.1f} s  {record.status:8}{case_name(record)}",
            record.reason or _peak(record),
            sep="  ",
            flush=True,
        )


def _peak(record: Record) -> str:
    assert record.measurement is not None
    times = record.measurement.step_times_s
    median = f", {1000 * sorted(times)[len(times) // 2]:.0f} ms a step" if times else ""
    return f"{format_bytes(record.measurement.peak_allocated_bytes)} allocated{median}"


def _trace(folder: Path, limit_s: float, ended: dict[str, Ended]) -> None:
    """Trace each case of traces.toml, in a process of its own."""
    plan = load_suite(_file(TRACES)).plan()
    ended[TRACES] = Ended(len(plan), Counter())
    folder.mkdir(exist_ok=True)
    for number, planned in enumerate(plan):
        path = folder / f"{planned.case.case_id[:12]}.json.gz"
        error = (
            None if path.is_file() else _said([str(number), str(path)], "record_trace.py", limit_s)
        )
        ended[TRACES].statuses["error" if error else "ok"] += 1
        print(f"trace of {planned.label}: {error or path.name}", flush=True)


def _probe(folder: Path) -> None:
    """What the device says of itself, and what a context takes; asked once a folder."""
    path = folder / "device.json"
    if not path.is_file() and (error := _said([str(path)], "probe.py", 300.0)):
        print(f"no {path.name}: {error}", flush=True)


def _said(arguments: Sequence[str], script: str, limit_s: float) -> str | None:
    """Run a script of this folder; the last line of its complaint, or None."""
    try:
        subprocess.run(  # noqa: S603
            [sys.executable, "-P", HERE / script, *arguments],
            check=True,
            stderr=subprocess.PIPE,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return f"no answer after {limit_s:.0f} s"
    except subprocess.CalledProcessError as error:
        return (error.stderr.strip().splitlines() or [f"exited with {error.returncode}"])[-1]
    return None


@contextmanager
def _deadline(minutes: float | None) -> Iterator[None]:
    """Inside, Ctrl-C comes by itself after `minutes`, and of a polite kill."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes if minutes else 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _archive(folder: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with tarfile.open(part, "w:xz") as archive:
        archive.add(folder, folder.name)
    shutil.move(part, path)
    print(f"packed into {path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
