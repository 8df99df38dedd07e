"""Plan to records: workers are started, asked, and replaced when they die.

A case that fails, hangs or takes its worker down is a record like any other, and the run goes on.
"""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from petl_bench import registry
from petl_bench.cards import Card
from petl_bench.environment import simulated_environment
from petl_bench.errors import UsageError
from petl_bench.record import Environment, Origin, Record, Status
from petl_bench.store import Expected, Store
from petl_bench.suite import PlannedCase
from petl_bench.worker import INTERRUPTED, Task

START_TIMEOUT_S = 300.0  # importing torch from a cold disk
CASE_TIMEOUT_S = 1800.0

Progress = Callable[[PlannedCase, int], None]  # the cell under way, how many are done


class WorkerDiedError(RuntimeError):
    """The worker ended, or said nothing in time; the message is one sentence."""


class WorkerSilentError(WorkerDiedError):
    """It said nothing in time: to wait as long again would hardly help."""


class Worker:
    """One worker process, greeted."""

    def __init__(self, origin: Origin, card: Card, emulates: str | None = None) -> None:
        """Start it; its greeting is awaited when it is first needed.

        `-P` keeps the current folder off its import path, so that a user's own `methods.py` or
        `torch/` does not come first.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        debugging = bool(os.environ.get("PETL_BENCH_DEBUG"))
        place = [origin.value, card.name, *([emulates] if emulates else [])]
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "petl_bench.worker", *place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if debugging else self._stderr,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self._environment: Environment | None = None
        self._said_before = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and let its memory go; a second time does nothing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                _close(pipe)

    @property
    def environment(self) -> Environment:
        """The place the worker runs in.

        Raises:
            WorkerDiedError: it did not come up.
        """
        if self._environment is None:
            self._environment = Environment.model_validate_json(self._line(START_TIMEOUT_S))
        return self._environment

    def run(self, task: Task) -> Record:
        """The record of one case.

        Raises:
            WorkerDiedError: the case took the worker down, or the time-out passed.
            KeyboardInterrupt: the user did.
        """
        assert self.environment is not None
        assert self._process.stdin is not None
        # What it said of earlier cases does not explain how this one ends.
        self._said_before = os.fstat(self._stderr.fileno()).st_size
        try:
            self._process.stdin.write(task.model_dump_json() + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._end() from None
        return Record.model_validate_json(self._line(CASE_TIMEOUT_S))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # end of file

    def _line(self, timeout_s: float) -> str:
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self._process.kill()
            raise WorkerSilentError(
                f"no answer after {timeout_s:.0f} s; the worker was killed"
            ) from None
        if not line.endswith("\n"):
            raise self._end()
        return line

    def _end(self) -> BaseException:
        """Why the process is no more, as what to raise; Ctrl-C reaches workers, too."""
        code = self._process.wait()
        if code in {INTERRUPTED, -signal.SIGINT}:
            return KeyboardInterrupt()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        self._stderr.seek(self._said_before)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        return WorkerDiedError(f"the worker {how}" + (f": {said[-1].strip()}" if said else ""))


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs plans on local worker processes."""

    origin: Origin
    card: Card  # the one to simulate; where it is measured, the device says its own name
    emulates: str | None = None  # the era of PyTorch to simulate; None: today's

    def run(
        self, plan: Sequence[PlannedCase], store: Store, progress: Progress
    ) -> Iterator[Record]:
        """Records of `plan` in its order: those in `store` already, and new ones, stored.

        Raises:
            UsageError: no worker came up.
        """
        with ExitStack() as workers:
            worker: Worker | None = None
            environment: Environment | None = None
            if self.origin is Origin.SIMULATED:
                environment = simulated_environment(self.card, self.emulates)
            for done, planned in enumerate(plan):
                progress(planned, done)
                if environment is None:
                    worker = workers.enter_context(self._worker())
                    environment = _greeting(worker)
                sha256 = registry.source_sha256(registry.get(planned.case.method.name))
                expected = Expected(planned.case.case_id, self.origin, environment, sha256)
                record = store.finished(expected)
                if record is None:
                    record, worker = self._run_twice(workers, worker, planned, expected)
                    store.append(record)
                yield record

    def _worker(self) -> Worker:
        return Worker(self.origin, self.card, self.emulates)

    def _run_twice(
        self,
        workers: ExitStack,
        worker: Worker | None,
        planned: PlannedCase,
        expected: Expected,
    ) -> tuple[Record, Worker | None]:
        """The record of one case, and the worker if it may be asked again.

        A worker that is lost may have been the machine's doing (a killer of processes that runs
        when memory is short): a second one is asked before the case is an error.
        """
        for last in (False, True):
            worker = worker or workers.enter_context(self._worker())
            try:
                return self._run_case(worker, planned)
            except WorkerDiedError as error:
                worker, why = None, error
            if last or isinstance(why, WorkerSilentError):
                break
        died = Record(
            case_id=planned.case.case_id,
            case=planned.case,
            label=planned.label,
            origin=self.origin,
            environment=expected.environment,
            method_source_sha256=expected.method_source_sha256,
            status=Status.ERROR,
            reason=str(why),
        )
        return died, None

    def _run_case(self, worker: Worker, planned: PlannedCase) -> tuple[Record, Worker | None]:
        """The worker's record of one case, and the worker if it may be asked again."""
        record = worker.run(Task(case=planned.case, label=planned.label))
        if self.origin is Origin.SIMULATED:
            return record, worker
        worker.stop()  # its memory is the next case's
        return record, None


def _greeting(worker: Worker) -> Environment:
    try:
        return worker.environment
    except WorkerDiedError as error:
        raise UsageError(f"profiler: cuda cannot start here: {error}") from None


def _close(pipe: IO[str] | IO[bytes]) -> None:
    with suppress(BrokenPipeError):  # it had died with a task half written
        pipe.close()
