"""petl-bench from Python: the names that `import petl_bench` offers.

import petl_bench
from torch import nn

build = lambda: nn.Sequential(nn.Linear(784, 4096), nn.ReLU(), nn.Linear(4096, 10))
loss = lambda model, batch: model(batch).square().mean()
print(petl_bench.simulate(build, (256, 784), loss=loss, gpu="t4"))
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from petl_bench import cards
from petl_bench.comparison import Outcome
from petl_bench.comparison import compare as compare_subjects
from petl_bench.comparison.subjects import Subject
from petl_bench.comparison.thresholds import DEFAULT, parse
from petl_bench.errors import UsageError
from petl_bench.own.footprint import Footprint
from petl_bench.record import Origin, Record
from petl_bench.store import Store, load_records, read_records
from petl_bench.suite import Suite, load_suite
from petl_bench.tables import to_frame as records_to_frame

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import pandas as pd
    from torch import nn

    from petl_bench.own.batches import Batch
    from petl_bench.own.models import Build, MakeOptimizer, MakeOptimizers, Several
    from petl_bench.own.steps import Loss, Step

__all__ = ["compare", "measure", "read", "run", "simulate", "to_frame"]

Results = str | PathLike[str] | Record | Footprint | Iterable[Record | Footprint]


def simulate(
    model: "nn.Module | Build",
    batch: "Batch",
    *,
    optimizer: "str | MakeOptimizer" = "adamw",
    optimizers: "MakeOptimizers | None" = None,
    loss: "Loss | None" = None,
    step: "Step | None" = None,
    gpu: str = cards.DEFAULT_CARD,
    name: str | None = None,
) -> Footprint:
    """What one training step of any torch model takes on `gpu`, without that GPU.

    Args:
        model: a function that builds the model (it runs where tensors have no data, so any
            size fits), or a model, of which a copy without data is trained.
        batch: a tensor, a shape such as (8, 128) for float32, or a mapping or list of these,
            passed to the model by name or by position. Values do not count.
        optimizer: "adamw", "adamw_fused", "sgd"; a class or function of the parameters that
            train; or an optimizer of `model`.
        optimizers: in place of `optimizer`, a function of the model that returns a sequence or a
            mapping of optimizers, such as a GAN's two; `step` gets what it returns.
        loss: `loss(model, batch)`, a scalar; without it the model's own output or its `loss`.
        step: `step(model, batch, optimizer)`, a whole training step, in place of `loss`.
        gpu: the card to simulate.
        name: what to call it; without it the model's class.

    Raises:
        UsageError: something that cannot be used, in one line.
    """
    from petl_bench.own import simulated  # noqa: PLC0415 - imports torch

    chosen = _step(loss, step)
    return simulated.simulate(
        model,
        batch,
        optimizer=_several(optimizers, step) or optimizer,
        step=chosen,
        card=cards.find(gpu),
        name=name or _name(model),
    )


def measure(
    model: "nn.Module | Build",
    batch: "Batch",
    *,
    optimizer: "str | MakeOptimizer" = "adamw",
    optimizers: "MakeOptimizers | None" = None,
    loss: "Loss | None" = None,
    step: "Step | None" = None,
    name: str | None = None,
) -> Footprint:
    """The same as `simulate`, measured on the CUDA device of this process, which should be fresh.

    Raises:
        UsageError: no CUDA device; something that cannot be used.
        OutOfMemoryError: it does not fit.
    """
    from petl_bench.own import measured  # noqa: PLC0415 - imports torch

    chosen = _step(loss, step)
    return measured.measure(
        model,
        batch,
        optimizer=_several(optimizers, step) or optimizer,
        step=chosen,
        name=name or _name(model),
    )


def run(
    suite: Suite | str | PathLike[str],
    *,
    profiler: Literal["simulated", "cuda"] = "simulated",
    gpu: str = cards.DEFAULT_CARD,
    out: str | PathLike[str] | None = None,
    executor: "str | Executor" = "local",
    lanes: int | None = None,
) -> list[Record]:
    """The records of a suite, or of the suite in a TOML file, each in a worker process.

    With `out`, a folder, they are stored as they come, and the same call goes on from there.
    `executor` is "local", "ray" or "slurm", with so many `lanes` at once; or any executor of
    the standard interface that runs functions where petl_bench is installed.

    Raises:
        UsageError: a field or value that does not exist; a folder that cannot be written.
    """
    from petl_bench.executors import start  # noqa: PLC0415 - only here
    from petl_bench.runner import Runner  # noqa: PLC0415 - imports the backbones, and so torch

    plan = (suite if isinstance(suite, Suite) else load_suite(Path(suite))).plan()
    if profiler not in {"simulated", "cuda"}:
        raise UsageError(f"profiler: {profiler!r} is not one of simulated, cuda")
    origin = Origin.MEASURED if profiler == "cuda" else Origin.SIMULATED
    with ExitStack() as stack:
        folder = Path(out if out is not None else stack.enter_context(TemporaryDirectory()))
        if isinstance(executor, str):
            executor = stack.enter_context(start(executor, lanes, origin, folder))
        runner = Runner(origin=origin, card=cards.find(gpu), executor=executor)
        return list(runner.run(plan, Store(folder), lambda *_: None))


def read(path: str | PathLike[str]) -> list[Record]:
    """The records of a run folder or a JSON Lines file.

    Raises:
        UsageError: no such file, or a line that is not a record.
    """
    return load_records(Path(path))


def to_frame(results: str | PathLike[str] | Iterable[Record]) -> "pd.DataFrame":
    """One row a record, in their order: raw integers, null where there is no number.

    Of a run folder or a JSON Lines file none is held, so a hundred thousand may be in it.
    Columns end in their unit. `trainable_percent` is of `backbone_parameters`; `saving_percent`
    is of the group's full fine-tuning; the columns named after categories are at the overall
    peak; `load_allocated_bytes` is what is held once the model stands.

    Raises:
        UsageError: no such file, or a line that is not a record.
    """
    if isinstance(results, str | PathLike):
        return records_to_frame(read_records(Path(results)))
    return records_to_frame(results)


def compare(
    base: Results,
    new: Results,
    *,
    fail_on: str | Sequence[str] = (),
    warn_on: str | Sequence[str] = (),
    strict: bool = False,
) -> Outcome:
    """Judge `new` by `base`: records, footprints, or a path to records.

    Thresholds are written as on the command line: "peak_allocated:1%", "peak_reserved:2MiB".

    Raises:
        UsageError: nothing could be compared; a threshold that cannot be read.
    """
    return compare_subjects(
        _subjects(base),
        _subjects(new),
        fail_on=[parse(text) for text in _listed(fail_on)] or (DEFAULT,),
        warn_on=[parse(text) for text in _listed(warn_on)],
        strict=strict,
    )


def _subjects(results: Results) -> list[Subject]:
    if isinstance(results, (str, PathLike)):
        results = read(results)
    if isinstance(results, (Record, Footprint)):
        results = [results]
    return [
        result.subject() if isinstance(result, Footprint) else Subject.of(result)
        for result in results
    ]


def _listed(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts


def _step(loss: "Loss | None", step: "Step | None") -> "Step":
    from petl_bench.own.steps import plain_step  # noqa: PLC0415 - imports torch

    if loss is not None and step is not None:
        raise UsageError("loss: a step computes its own; give one of the two")
    return step or plain_step(loss)


def _several(optimizers: "MakeOptimizers | None", step: "Step | None") -> "Several | None":
    from petl_bench.own.models import Several  # noqa: PLC0415 - imports torch

    if optimizers is None:
        return None
    if step is None:
        raise UsageError("optimizers: several need a step of your own that uses them")
    return Several(optimizers)


def _name(model: object) -> str:
    """A function's name, or a module's class; a lambda has none worth showing."""
    name = getattr(model, "__name__", type(model).__name__)
    return "model" if name == "<lambda>" else str(name)
