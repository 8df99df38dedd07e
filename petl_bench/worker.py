"""The process that runs cases: one JSON document a line in, one out.

It imports, greets with its environment once it is told to, then answers each job with a record.
Whatever a library prints goes to stderr, so that nothing but documents reaches the parent. A
simulating worker serves many cases; a measuring one is asked once and thrown away.
"""

import gc
import os
import sys
import threading
import time
import traceback
from typing import IO, Any

from petl_bench import cards
from petl_bench.case import Case, Parallel
from petl_bench.environment import (
    measured_environment,
    processor_environment,
    simulated_environment,
)
from petl_bench.errors import OutOfMemoryError, UsageError
from petl_bench.garbage import collection_paused
from petl_bench.jobs import INTERRUPTED, Job, Task
from petl_bench.record import Environment, Measurement, Origin, Record, Status

PARENT_CHECK_S = 1.0


def serve(origin: Origin, jobs: IO[str], answers: IO[str]) -> None:
    """Answer jobs, each with a task, until there are no more."""
    warm_up()
    jobs.readline()  # its turn has come: until then a spare has nothing of the device
    here = measured_environment() if origin is Origin.MEASURED else processor_environment()
    _send(answers, here.model_dump_json())
    for line in jobs:
        job = Job.model_validate_json(line)
        assert job.task is not None
        card = cards.find(job.place.card)
        stands_for = simulated_environment(card, job.place.emulates)
        environment = here if origin is Origin.MEASURED else stands_for
        record = run_task(job.task, origin, card, environment)
        _send(answers, record.model_dump_json())


def run_task(task: Task, origin: Origin, card: cards.Card, environment: Environment) -> Record:
    """The record of one case: its measurement, or why there is none."""
    from petl_bench import registry  # noqa: PLC0415 - imports torch

    begin = time.perf_counter()
    case = task.case
    outcome: dict[str, Any]
    try:
        outcome = _skip(case) or {
            "status": Status.OK,
            "measurement": _measure(case, origin, card, environment.emulates),
        }
    except Exception as error:  # noqa: BLE001 - a case that fails is a result, told by its record
        outcome = _failure(error)
    return Record(
        case_id=case.case_id,
        case=case,
        label=task.label,
        origin=origin,
        environment=environment,
        method_source_sha256=registry.source_sha256(registry.get(case.method.name)),
        worker_s=time.perf_counter() - begin,
        **outcome,
    )


def _skip(case: Case) -> dict[str, Any] | None:
    from petl_bench.assembly import unsupported  # noqa: PLC0415 - imports torch

    reason = unsupported(case)
    return {"status": Status.SKIPPED, "reason": reason} if reason else None


def _measure(case: Case, origin: Origin, card: cards.Card, emulates: str | None) -> Measurement:
    if origin is Origin.MEASURED:
        if case.workload.parallel is not Parallel.NONE:
            raise UsageError("parallel: ranks are simulated only, and this was to be measured")
        from petl_bench.profilers.cuda import measure  # noqa: PLC0415 - needs NVML

        return measure(case)
    from petl_bench.profilers.simulated.era import ERAS  # noqa: PLC0415 - not where measured
    from petl_bench.profilers.simulated.profiler import simulate  # noqa: PLC0415 - likewise

    return simulate(case, card, ERAS[emulates])


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, UsageError):  # method and backbone do not go together
        return {"status": Status.SKIPPED, "reason": str(error)}
    if isinstance(error, OutOfMemoryError):
        return {
            "status": Status.OOM,
            "reason": str(error),
            "requested_bytes": error.requested_bytes,
        }
    traceback.print_exception(error)  # to stderr, which PETL_BENCH_DEBUG lets through
    text = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    if isinstance(error, NotImplementedError):
        # Of a simulation; a measured one has values.
        reason = (
            f"its training step asks for what tensors without data lack; {reason.split('. ')[0]}"
        )
    return {"status": Status.ERROR, "reason": reason}


def warm_up() -> None:
    """Import what cases need, so that no case's `worker_s` is that of imports.

    Nobody searches for cycles among the libraries' 380,000 objects: a fifth of the imports, and a
    tenth of a case.
    """
    with collection_paused():
        import peft  # noqa: F401, PLC0415
        import transformers  # noqa: F401, PLC0415

        from petl_bench import assembly, registry  # noqa: F401, PLC0415
    gc.freeze()


def end_with_parent() -> None:
    """Leave when the parent dies, however long the case under way would go on."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _send(answers: IO[str], document: str) -> None:
    answers.write(document + "\n")
    answers.flush()


def main() -> None:
    """Entry point: `python -m petl_bench.worker ORIGIN`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # anything printed from here on goes to stderr
    end_with_parent()
    try:
        serve(Origin(sys.argv[1]), sys.stdin, answers)
    except BrokenPipeError:
        os._exit(1)  # the parent is gone: nobody reads what we would say
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
