"""Pre-train a T5-mini twice, plain and with a reserved ladder, and try methods on both.

benchmarks/pretraining/collect.sh BUNDLE FOLDER

Each part is a command of its own, which --plan prints. The same command goes on where the last one
was stopped, by --minutes, Ctrl-C or the machine.

    FOLDER/curves/            of pre-training, with what was trained
    FOLDER/scores/NAME/TASK/  records, tables and report of `petl-bench train`
    FOLDER/t5-mini, FOLDER/t5-mini-reserved     the weights, which --archive leaves out
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
METHODS = ("full", "lora", "adapter", "lst", "lst[initialise=fisher]")
RESERVED = "lst[initialise=reserved]"
PATIENCE_S = 60.0  # for a part that was told to stop: it writes a checkpoint first
STOPPED = 130  # what a part exits with then


class Part(NamedTuple):
    """A command, and what it is for."""

    title: str
    command: tuple[str, ...]


def main() -> int:
    """Run the parts as the command line says; the exit code: that of the first that failed."""
    options, passed_on = _options()
    parts = list(_parts(options, passed_on))
    if options.plan:
        for part in parts:
            print(f"# {part.title}\n{shlex.join(part.command)}\n")
        return 0
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else None
    code = 0
    for part in parts:
        print(f"{part.title} ...", flush=True)
        begin = time.monotonic()
        ended = _run(part, deadline)
        print(f"{part.title}: exit code {ended} after {time.monotonic() - begin:.0f} s", flush=True)
        code = code or ended
        if ended == STOPPED:
            print("stopped; the same command goes on where it left off")
            break
        if ended and part.command[2] != "-m":
            break  # no weights, no scores
    if options.archive:
        _archive(options.folder, options.archive)
    return code


def _parts(options: argparse.Namespace, passed_on: list[str]) -> Iterator[Part]:
    python = (sys.executable, "-P")
    folder: Path = options.folder
    names = {f"t5-{options.shape}": (), f"t5-{options.shape}-reserved": ("--ladder",)}
    for name, ladder in names.items():
        yield Part(
            f"pre-training {name}",
            (
                *(*python, str(HERE / "pretrain.py"), str(options.bundle), str(folder), name),
                *("--shape", options.shape, *ladder),
                *("--minutes", str(options.pretrain_minutes), *passed_on),
            ),
        )
    for task in options.tasks:
        for name, ladder in names.items():
            methods = (RESERVED, *METHODS) if ladder else METHODS
            yield Part(
                f"{task} on {name}",
                (
                    *(*python, "-m", "petl_bench", "train", "--task", task),
                    *("--data", str(options.bundle / "tasks" / task)),
                    *("--backbone", str(folder / name), "--methods", ",".join(methods)),
                    *("--seeds", options.seeds, "--out", str(folder / "scores" / name / task)),
                    *(("--max-steps", str(options.max_steps)) if options.max_steps else ()),
                ),
            )


def _run(part: Part, deadline: float | None) -> int:
    """The part's exit code; at the deadline, or at Ctrl-C, it is told to stop."""
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        return STOPPED
    # A session of its own: Ctrl-C comes to it once, from here.
    process = subprocess.Popen(part.command, start_new_session=True)  # noqa: S603
    try:
        return process.wait(left)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
        return STOPPED


def _archive(folder: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with tarfile.open(part, "w:xz") as archive:
        for name in ("curves", "scores"):
            if (folder / name).is_dir():
                archive.add(folder / name, name)
    part.replace(path)
    print(f"archive: {path}, {path.stat().st_size / 1e6:.1f} MB")


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="collect.sh",
        description=str(__doc__).splitlines()[0],
        epilog="Other options go to pretrain.py.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="as bundle.py makes it")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--shape", default="mini", help="of pretrain.py (%(default)s)")
    parser.add_argument(
        "--pretrain-minutes", type=float, default=20.0, help="of each of the two (%(default)s)"
    )
    parser.add_argument("--tasks", metavar="TASK", nargs="+", help="those of the bundle")
    parser.add_argument("--seeds", default="0,1,2", help="of petl-bench train (%(default)s)")
    parser.add_argument("--max-steps", type=int, help="of petl-bench train")
    parser.add_argument("--plan", action="store_true", help="print the commands and stop")
    parser.add_argument("--minutes", type=float, metavar="N", help="stop after so many")
    parser.add_argument(
        "--archive", type=Path, help="pack curves and scores into this .tar.xz at the end"
    )
    options, passed_on = parser.parse_known_args()
    there = sorted(path.name for path in options.bundle.glob("tasks/*"))
    if not (options.bundle / "corpus.json").is_file() or not there:
        parser.error(f"BUNDLE: {options.bundle} is none; see bundle.py")
    options.tasks = options.tasks or there
    if missing := set(options.tasks) - set(there):
        parser.error(f"--tasks: no {', '.join(sorted(missing))}; the bundle has {', '.join(there)}")
    return options, passed_on


if __name__ == "__main__":
    sys.exit(main())
