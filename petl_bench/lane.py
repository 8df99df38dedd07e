"""Where jobs run one at a time: a worker process, kept from job to job where it may be.

`run_job` is what every executor is given. It imports no torch, its worker does.
"""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

from petl_bench.environment import worker_variables
from petl_bench.jobs import INTERRUPTED, Answer, Job, Place
from petl_bench.record import Environment, Origin, Record

START_TIMEOUT_S = 300.0  # importing torch from a cold disk
CASE_TIMEOUT_S = 1800.0
SPARE_PROCESSORS = 8
"""Of which a measurement's own host work leaves enough for another worker's imports."""


class WorkerDiedError(RuntimeError):
    """The worker ended, or said nothing in time; the message is one sentence."""


class WorkerSilentError(WorkerDiedError):
    """It said nothing in time: to wait as long again would hardly help."""


class Worker:
    """One worker process, greeted."""

    def __init__(self, origin: Origin, variables: Mapping[str, str]) -> None:
        """Start it in an environment of `variables`; its greeting is awaited when first needed.

        `-P` keeps the current folder off its import path, so that a user's own `methods.py` or
        `torch/` does not come first.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        debugging = bool(os.environ.get("PETL_BENCH_DEBUG"))
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "petl_bench.worker", origin.value],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if debugging else self._stderr,
            text=True,
            env=variables,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self._environment: Environment | None = None
        self._said_before = 0

    def kill(self) -> None:
        """End the process; whoever awaits its answer learns it."""
        self._process.kill()

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
            self._send("")
            self._environment = Environment.model_validate_json(self._line(START_TIMEOUT_S))
        return self._environment

    def run(self, job: Job) -> Record:
        """The record of one case.

        Raises:
            WorkerDiedError: the case took the worker down, or the time-out passed.
            KeyboardInterrupt: the user did.
        """
        assert self.environment is not None
        # What it said of earlier cases does not explain how this one ends.
        self._said_before = os.fstat(self._stderr.fileno()).st_size
        self._send(job.model_dump_json())
        return Record.model_validate_json(self._line(CASE_TIMEOUT_S))

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._end() from None

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


class Lane:
    """A place for one worker at a time.

    A simulating worker serves any card and era until it dies; a measuring one serves one case,
    so that its memory is not the next one's. Where there are processors enough, the next one
    imports meanwhile, which takes longer than most cases; it opens the device in its turn alone.
    """

    def __init__(self, device: str | None = None) -> None:
        """Have workers see the CUDA device called `device` alone; None: what this process sees."""
        self._device = device
        self._worker: Worker | None = None
        self._spare: Worker | None = None
        self._serves: tuple[Origin, str] | None = None
        self._closed = False
        self._opening = threading.Lock()

    def run(self, job: Job) -> Answer:
        """What comes of `job`.

        Raises:
            KeyboardInterrupt: Ctrl-C has ended the worker.
        """
        try:
            worker = self._worker_for(job.place)
            if job.task is None:
                return Answer(environment=worker.environment)
            if job.place.origin is Origin.MEASURED and _processors() >= SPARE_PROCESSORS:
                self._prepare(job.place)
            record = worker.run(job)
        except WorkerDiedError as error:
            self._stop_worker()
            return Answer(lost=str(error), again=not isinstance(error, WorkerSilentError))
        if job.place.origin is Origin.MEASURED:
            self._stop_worker()
        return Answer(record=record)

    def kill(self) -> None:
        """End the job under way, from another thread, and take no other."""
        with self._opening:
            self._closed = True
            for worker in (self._worker, self._spare):
                if worker is not None:
                    worker.kill()

    def close(self) -> None:
        """Let the worker go."""
        self.kill()
        self._stop()

    def _worker_for(self, place: Place) -> Worker:
        serves = (place.origin, place.allocator_settings)
        if self._serves != serves:
            self._stop()
        with self._opening:
            if self._closed:
                raise WorkerDiedError("its lane was closed")
            if self._worker is None:
                self._worker = self._spare or self._start(place)
                self._spare, self._serves = None, serves
            return self._worker

    def _prepare(self, place: Place) -> None:
        with self._opening:
            if self._spare is None and not self._closed:
                self._spare = self._start(place)

    def _start(self, place: Place) -> Worker:
        variables = worker_variables(place.allocator_settings)
        if self._device is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self._device
        return Worker(place.origin, variables)

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self._worker = None

    def _stop(self) -> None:
        self._stop_worker()
        if self._spare is not None:
            self._spare.stop()
        self._spare = self._serves = None


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_here = threading.local()


def open_lane(device: str | None = None) -> Lane:
    """The lane that `run_job` takes in this thread from now on."""
    lane = _here.lane = Lane(device)
    return lane


def run_job(document: str) -> str:
    """The Answer to a Job, as JSON, from this thread's lane: what every executor runs."""
    lane = getattr(_here, "lane", None) or open_lane()
    return lane.run(Job.model_validate_json(document)).model_dump_json()


def _close(pipe: IO[str] | IO[bytes]) -> None:
    with suppress(BrokenPipeError):  # it had died with a task half written
        pipe.close()
