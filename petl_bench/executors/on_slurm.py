"""Slurm jobs through submitit, one a case.

What a site wants to know beside the GPU (partition, account, time limit) is for sbatch's own
variables: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT and so on.
"""

import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock
from typing import ParamSpec, TypeVar

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from petl_bench.errors import UsageError
from petl_bench.executors.lanes import LanesExecutor
from petl_bench.lane import CASE_TIMEOUT_S, START_TIMEOUT_S, WorkerDiedError
from petl_bench.lines import missing, remove_empty

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_LANES = 8
POLL_S = 1.0  # looking for a result
QUEUE_S = 10.0  # asking Slurm, for all jobs at once
LATE_S = 15.0  # how long after its job a result may show on a slow file system
ENDED = {  # states that a job does not leave, unless it is queued again
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "TIMEOUT"),
}
TIME_LIMIT_MINUTES = int(START_TIMEOUT_S + CASE_TIMEOUT_S) // 60 + 5


class SlurmExecutor(LanesExecutor):
    """Lanes with a Slurm job each, queued or running, which has a processor, or a GPU as well."""

    def __init__(self, folder: Path, lanes: int | None = None, *, gpus: int = 0) -> None:
        """Have `lanes` jobs of `gpus` GPUs at once.

        `folder` is for scripts and logs and must be the same on every node.

        Raises:
            UsageError: there is no Slurm here.
        """
        try:
            self._slurm = submitit.SlurmExecutor(folder=folder)
        except RuntimeError:
            raise UsageError("executor: no Slurm here: srun is not on the path") from None
        self._slurm.update_parameters(
            job_name="petl-bench",
            time=TIME_LIMIT_MINUTES,
            cpus_per_task=1,
            **({"gpus_per_node": gpus} if gpus else {}),
        )
        self._folder, self._made = folder, missing(folder)
        self._queue = _Queue()
        self._submitting = Lock()
        self._cancelled = Event()
        super().__init__(lanes or DEFAULT_LANES, thread_name_prefix="slurm")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As inherited; `fn` and its arguments are pickled into the folder."""
        return super().submit(self._ask, fn, *args, **kwargs)

    def kill_workers(self) -> None:
        """Cancel the jobs, queued and running."""
        self._cancelled.set()

    def release(self) -> None:
        """Nothing: a job ends with its case."""

    def _ask(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        job = self._submit(fn, *args, **kwargs)
        submitted = time.monotonic()
        seen_to_end = None  # when, for the first time; a job may be queued again
        while not _has_result(job):
            how = self._queue.ending(job.job_id, submitted)
            seen_to_end = (seen_to_end or time.monotonic()) if how else None
            if seen_to_end and time.monotonic() - seen_to_end > LATE_S:
                raise WorkerDiedError(f"its Slurm job {job.job_id} {how} ({job.paths.stderr.name})")
            if self._cancelled.wait(POLL_S):
                job.cancel(check=False)
                raise WorkerDiedError(f"its Slurm job {job.job_id} was cancelled")
        try:
            answer: T = job.result()
        except FailedJobError:
            raise UsageError(
                f"executor: a Slurm job cannot run cases; see {job.paths.stderr}"
            ) from None
        return answer

    def _submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> submitit.Job[T]:
        with self._submitting:
            before = self._submissions()
            try:
                return self._slurm.submit(fn, *args, **kwargs)
            except (FailedSubmissionError, FailedJobError, subprocess.CalledProcessError) as error:
                self._remove(self._submissions() - before)
                what = str(error).strip().rpartition("\n")[2]
                raise UsageError(f"executor: sbatch: {what}") from None

    def _submissions(self) -> set[Path]:
        """What submitit wrote for jobs before they had a number: pickles and scripts."""
        patterns = (f"{'?' * 32}.pkl", ".submission_file_*.sh")
        return {path for pattern in patterns for path in self._folder.glob(pattern)}

    def _remove(self, refused: set[Path]) -> None:
        for path in refused:
            path.unlink()
        remove_empty(self._made)


class _Queue:
    """What `squeue` says of this user's jobs.

    submitit would ask `sacct`, which knows nothing where a site keeps no accounts.
    """

    def __init__(self) -> None:
        """Ask for the first time.

        Raises:
            UsageError: there is no Slurm, or it does not answer.
        """
        self._states: dict[str, str] = {}
        self._asked = self._answered = float("-inf")
        self._asking = Lock()
        try:
            self._ask()
        except OSError as error:
            raise UsageError(f"executor: no Slurm here: squeue: {error.strerror}") from None
        except subprocess.CalledProcessError as error:
            what = error.stderr.strip().partition("\n")[0]
            raise UsageError(f"executor: Slurm does not answer: {what}") from None

    def ending(self, job_id: str, submitted: float) -> str | None:
        """How the job that was `submitted` then ended, or None if it has not."""
        with self._asking:
            if time.monotonic() - self._asked > QUEUE_S:
                with suppress(OSError, subprocess.CalledProcessError):  # away, for a while
                    self._ask()
            if self._answered < submitted:
                return None
            state = self._states.get(job_id)
        if state is None:  # Slurm forgets a job some minutes after it
            return "left the queue without a result"
        return f"ended as {state}" if state in ENDED else None

    def _ask(self) -> None:
        command = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}"]
        self._asked = time.monotonic()
        answer = subprocess.run(  # noqa: S603
            [*command, "--format=%i %T"], capture_output=True, text=True, check=True
        )
        self._states = dict(line.split() for line in answer.stdout.splitlines())
        self._answered = self._asked


def _has_result(job: submitit.Job[T]) -> bool:
    """Whether there is one to be seen; network file systems look again after a change."""
    folder = job.paths.folder
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)
    return bool(job.paths.result_pickle.exists())
