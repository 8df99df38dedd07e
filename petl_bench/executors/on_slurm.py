"""Slurm jobs through submitit, one a case.

What a site wants to know beside the GPU (partition, account, time limit) is for sbatch's own
variables: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT and so on.
"""

import subprocess
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Event, Lock
from typing import ParamSpec, TypeVar

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

from petl_bench.errors import UsageError
from petl_bench.executors.lanes import LanesExecutor
from petl_bench.lane import CASE_TIMEOUT_S, START_TIMEOUT_S, WorkerDiedError

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_LANES = 8
POLL_S = 1.0
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
        self._submitting = Lock()
        self._ended = Event()
        super().__init__(lanes or DEFAULT_LANES, thread_name_prefix="slurm")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As inherited; `fn` and its arguments are pickled into the folder."""
        return super().submit(self._ask, fn, *args, **kwargs)

    def kill_workers(self) -> None:
        """Cancel the jobs, queued and running."""
        self._ended.set()

    def release(self) -> None:
        """Nothing: a job ends with its case."""

    def _ask(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        job = self._queue(fn, *args, **kwargs)
        while not job.done():
            if self._ended.wait(POLL_S):
                job.cancel(check=False)
                raise WorkerDiedError(f"its Slurm job {job.job_id} was cancelled")
        try:
            answer: T = job.result()
        except FailedJobError:
            raise UsageError(
                f"executor: a Slurm job cannot run cases; see {job.paths.stderr}"
            ) from None
        except UncompletedJobError:
            raise WorkerDiedError(f"its Slurm job {job.job_id} ended as {job.state}") from None
        return answer

    def _queue(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> submitit.Job[T]:
        try:
            with self._submitting:
                return self._slurm.submit(fn, *args, **kwargs)
        except (FailedSubmissionError, FailedJobError, subprocess.CalledProcessError) as error:
            what = str(error).strip().rpartition("\n")[2]
            raise UsageError(f"executor: sbatch: {what}") from None
