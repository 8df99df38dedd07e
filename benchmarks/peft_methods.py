"""Every type of peft's on one backbone, simulated: writes docs/peft.md.

python benchmarks/peft_methods.py [TYPE ...]    only those, the other rows stay

A type has a process of its own, so that seconds and RAM are its own; both are of the simulation,
not of what is simulated. Seconds are the processor's, so that they do not depend on what else the
machine does.
"""

import json
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from petl_bench import cards, registry
from petl_bench.environment import simulated_environment
from petl_bench.errors import UsageError
from petl_bench.jobs import Task
from petl_bench.record import Origin, Record, Status
from petl_bench.suite import Suite
from petl_bench.units import KIB, format_bytes, format_count
from petl_bench.worker import run_task

PAGE = Path(__file__).parents[1] / "docs" / "peft.md"
AXES: Mapping[str, Mapping[str, list[Any]]] = {
    "backbone": {"name": ["llama-3.2-3b"], "dtype": ["bf16"], "attention": ["sdpa"]},
    "workload": {"batch_size": [4], "source_length_tokens": [768]},
}
LIMIT_S = 120  # of processor time
QUICK_S = 6
PAGE_TEXT = """\
# Peft's methods

`--methods peft:TYPE[field=value,...]` runs any type of the installed peft, and `peft:FOLDER` the
adapter_config.json that lies there. Fields, defaults and checks are peft's own
(`petl-bench methods peft:vera`); where peft asks for a value and has no default, such as the number
of virtual tokens, we take one. The modules that a method is for are peft's choice for the model's
type, or all linear layers (or norms) where peft has none. Records have them filled in.

Llama-3.2-3B, bf16 with peft's casts, sdpa, batch 4, 768 tokens, AdamW, simulated for {card}
({versions}). {done} of {all} types run; {quick} of them take less than {quick_s} seconds of
processor time, none more than {ram} of RAM. Written by `python benchmarks/peft_methods.py`.

Seconds leave out importing the libraries. {notes}

| method | trainable | peak allocated | seconds | RAM | why not |
|---|---:|---:|---:|---:|---|
{rows}
"""
NOTES = """\
Not counted is what CUDA's closed
libraries tell on the card alone: the work areas of cuFFT's plans (C3A, FourierFT; by its
documentation little for powers of two), cuSOLVER's buffer for a single matrix (PSOFT) and
cuSPARSE's for a sparse product (FRoD in fp32). A mask of a method's is taken to choose everything,
and values among which it looks for different ones to differ all; CPT's loop over such labels makes
its estimated time too long.

`peft:adamss` needs scikit-learn. It clusters the weights, which are random here: its parts have
other sizes than a trained model's, not another sum. `peft:xlora` mixes two new LoRA adapters, or
those of its field `adapters`, a folder or a spec each: {"0": "FOLDER", "1": "peft:lora[r=16]"}. It
is refused on encoder-decoders, where peft's own X-LoRA fails, too."""
CARD = cards.find(cards.DEFAULT_CARD)
LIBRARIES = {"peft:adamss": "sklearn.cluster"}  # that a type has of its own


def simulated(name: str) -> dict[str, Any]:
    """What one type needs, or why that is not known."""
    with suppress(ImportError):
        import_module(LIBRARIES.get(name, "peft"))
    begin = time.process_time()
    try:
        (planned,) = [cell for cell in Suite(methods=[name], **AXES).plan() if cell.label == name]
        task = Task(case=planned.case, label=name)
        record = run_task(task, Origin.SIMULATED, CARD, simulated_environment(CARD))
    except UsageError as error:
        return {"reason": str(error)}
    return told(record) | {"seconds": time.process_time() - begin}


def told(record: Record) -> dict[str, Any]:
    if record.status is not Status.OK or record.measurement is None:
        return {"reason": record.reason}
    seen = record.measurement
    peak = max(memory.peak_allocated_bytes for step in seen.steps for memory in step.values())
    return {"trainable": seen.trainable_parameters, "peak_bytes": peak}


def in_a_process(name: str) -> dict[str, Any]:
    """`simulated(name)` of a forked child, and the RAM that it took."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + LIMIT_S, int(used) + LIMIT_S))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        warnings.simplefilter("ignore")
        with os.fdopen(writing, "w") as answer:
            json.dump(simulated(name), answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    _, status, usage = os.wait4(child, 0)
    ended = f"more than {LIMIT_S} s" if os.WIFSIGNALED(status) else "a defect of ours"
    found = json.loads(text) if text else {"reason": ended}
    return found | {"ram_bytes": usage.ru_maxrss * KIB}


def row(name: str, found: Mapping[str, Any]) -> str:
    if "reason" in found:
        cells = [f"`{name}`", "", "", "", "", found["reason"].replace("|", "\\|")]
    else:
        numbers = format_count(found["trainable"]), format_bytes(found["peak_bytes"])
        took = f"{found['seconds']:.1f}", format_bytes(found["ram_bytes"])
        cells = [f"`{name}`", *numbers, *took, ""]
    return f"| {' | '.join(cells)} |"


def page(rows: Mapping[str, str]) -> str:
    done = [cells for cells in map(str.split, rows.values(), repeat("|")) if not cells[-2].strip()]
    quick = [cells for cells in done if float(cells[4]) < QUICK_S]
    return PAGE_TEXT.format(
        done=len(done),
        all=len(rows),
        quick="all" if len(quick) == len(done) else len(quick),
        quick_s=QUICK_S,
        ram=max((cells[5].strip() for cells in done), key=lambda size: float(size.split()[0])),
        card=CARD.name,
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"peft {peft.__version__}",
        notes=NOTES,
        rows="\n".join(rows.values()),
    )


def rows_of(text: str) -> dict[str, str]:
    """The table's rows as they stand on the page, by method."""
    found = re.findall(r"^\| `(peft:\w+)` \|.*$", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return dict(zip(found, lines, strict=True))


def main() -> None:
    known = rows_of(PAGE.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    for name in [f"peft:{kind}" for kind in sys.argv[1:]] or registry.names("peft"):
        known[name] = row(name, in_a_process(name))
        print(known[name], flush=True)
    rows = {name: known[name] for name in registry.names("peft") if name in known}
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
