"""Tasks on a Ray cluster: the one that RAY_ADDRESS names, or one that is started here."""

import logging
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, redirect_stdout
from threading import Event
from typing import Any, ParamSpec, TypeVar

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from petl_bench.errors import UsageError
from petl_bench.executors.lanes import LanesExecutor
from petl_bench.lane import WorkerDiedError
from petl_bench.units import MIB

P = ParamSpec("P")
T = TypeVar("T")

LOST = (NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
KNOCK_S = 10.0
OBJECT_STORE_BYTES = 100 * MIB  # records are small


class RayExecutor(LanesExecutor):
    """Lanes with a Ray task each, which has a processor of its own, or a GPU as well."""

    def __init__(self, lanes: int | None = None, *, gpus: int = 0) -> None:
        """Have `lanes` tasks of `gpus` GPUs at once; None: as many as the cluster takes.

        Raises:
            UsageError: there is no such cluster, or nothing in it to run on.
        """
        self._started = not ray.is_initialized()
        if self._started:
            _connect(lanes)
        kind = "GPU" if gpus else "CPU"
        room = int(ray.cluster_resources().get(kind, 0))
        if room < 1:
            self._disconnect()
            raise UsageError(f"executor: the Ray cluster has no {kind}")
        # A task that is lost is not tried again by Ray: the runner does, and counts.
        self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_call)
        self._under_way: set[Any] = set()
        self._cancelled = Event()
        super().__init__(lanes or room, thread_name_prefix="ray")
        # Ray tells of lost workers on stdout, which is for results.
        self._told_elsewhere = ExitStack()
        self._told_elsewhere.enter_context(redirect_stdout(sys.stderr))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As inherited; `fn` and its arguments are pickled."""
        return super().submit(self._ask, fn, *args, **kwargs)

    def kill_workers(self) -> None:
        """End the Ray processes that run tasks of ours."""
        self._cancelled.set()
        for reference in list(self._under_way):
            ray.cancel(reference, force=True)

    def release(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        self._disconnect()
        self._told_elsewhere.close()  # last: until then Ray may still tell

    def _ask(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        reference = self._task.remote(fn, *args, **kwargs)
        self._under_way.add(reference)
        if self._cancelled.is_set():  # it came too late to be ended with the others
            ray.cancel(reference, force=True)
        try:
            answer: T = ray.get(reference)
        except LOST as error:
            what = str(error).partition("\n")[0].partition(". ")[0]
            raise WorkerDiedError(f"its Ray worker was lost: {what}") from None
        except RayTaskError as error:
            what = f"{type(error.cause).__name__}: {error.cause}".partition("\n")[0]
            raise UsageError(f"executor: a Ray worker cannot run cases: {what}") from None
        finally:
            self._under_way.discard(reference)
        return answer

    def _disconnect(self) -> None:
        if self._started:
            ray.shutdown()


def _call(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    return fn(*args, **kwargs)


def _connect(lanes: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    here = {
        "num_cpus": lanes,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    try:
        if address:
            _knock(address)
        ray.init(
            address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else here),
        )
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UsageError(
            f"executor: no Ray cluster at {address or 'this machine'}: {what}"
            + _token_hint(error, address)
        ) from None


def _knock(address: str) -> None:
    """Nothing, if somebody listens at a HOST:PORT; Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _token_hint(error: Exception, address: str | None) -> str:
    # A ConnectionError that is no OSError of the socket's is Ray's own: somebody listens, and did
    # not let us in.
    refused = type(error) is ConnectionError
    if address and refused and "RAY_AUTH_MODE" not in os.environ:
        return "; one that asks for a token wants RAY_AUTH_MODE=token"
    return ""
