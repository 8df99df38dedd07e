"""What fits: the largest batch, length or backbone of each method in so many bytes.

streams   streams of allocations along an axis, most of them computed from a few simulations
search    the border between what fits and what does not
tables    the answers as tables for people and rows for programs
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import active_children, get_context

from petl_bench.cards import Card
from petl_bench.case import Case, Frozen
from petl_bench.errors import UsageError
from petl_bench.explanation import LiveTensor
from petl_bench.record import Environment, Phase
from petl_bench.suite import PlannedCase
from petl_bench.units import format_bytes


class Vary(StrEnum):
    """What is made as large as fits."""

    BATCH = "batch"
    LENGTH = "length"
    BACKBONE = "backbone"


LARGEST = {Vary.BATCH: 65_536, Vary.LENGTH: 32_768}
"""Where a search ends; nobody trains there."""


FIELD = {Vary.BATCH: "batch_size", Vary.LENGTH: "source_length_tokens"}
"""Of the workload."""


class Held(Frozen):
    """What fits."""

    place: str  # the batch, the length in tokens, or the backbone's name
    peak_allocated_bytes: int
    peak_reserved_bytes: int  # what the allocator held at most; never more than the capacity
    margin_bytes: int  # what it never asked for
    simulated: bool  # else computed, from simulations that obey one law to the byte


class Overflow(Frozen):
    """What one more does not fit for: the first request that is refused."""

    place: str
    phase: Phase
    tensor: LiveTensor  # its bytes are those requested
    allocated_bytes: int  # by then
    reserved_bytes: int  # likewise
    simulated: bool  # as in `Held`


class Answer(Frozen):
    """The most that fits of one method into one memory."""

    label: str
    memory_bytes: int  # the card's
    capacity_bytes: int  # what it has for tensors
    largest: Held | None  # None: not even the smallest fits
    overflow: Overflow | None  # None: everything that was asked for fits


class CurvePoint(Frozen):
    """The memory of one simulated place, on a device without a limit."""

    place: str
    position: int  # along the axis: the batch, the length, or the backbone's number by size
    peak_allocated_bytes: int
    peak_reserved_bytes: int


class Curve(Frozen):
    """What was simulated of one method, and what was found."""

    case: Case  # the one asked for; the axis is what varies of it
    label: str
    answers: tuple[Answer, ...] = ()  # in the order of the memories
    points: tuple[CurvePoint, ...] = ()  # along the axis
    reason: str | None = None  # why there are none


class Frontier(Frozen):
    """All that `petl-bench fit` found."""

    vary: Vary
    environment: Environment
    context_bytes: int  # taken off every memory
    memory_bytes: tuple[int, ...]
    places: tuple[str, ...] = ()  # of a finite axis: the backbones by size
    curves: tuple[Curve, ...]

    @property
    def answers(self) -> Iterator[Answer]:
        """Every method's, method by method."""
        for curve in self.curves:
            yield from curve.answers


@dataclass(frozen=True, kw_only=True)
class Question:
    """What one process is asked: one method at every memory."""

    planned: PlannedCase
    vary: Vary
    card: Card
    memory_bytes: tuple[int, ...]


def check_memories(memory_bytes: Sequence[int], card: Card) -> None:
    """Refuse a memory that leaves nothing for tensors.

    Raises:
        UsageError: the context of `card` alone fills it.
    """
    for memory in memory_bytes:
        if memory <= card.context_bytes:
            raise UsageError(
                f"memory: {format_bytes(memory)} is not more than the"
                f" {format_bytes(card.context_bytes)} that CUDA's context takes on {card.name}"
            )


def curves(questions: Sequence[Question], done: Callable[[str], None]) -> list[Curve]:
    """Every question's answer, in their order; `done` hears the label of each as it is there.

    Each is a process's own, as many at a time as there are cores for it.
    """
    count = max(1, min(len(questions), len(os.sched_getaffinity(0))))
    context = get_context("spawn")  # a fork of a process with torch in it may hang
    with ProcessPoolExecutor(count, context, initializer=_ready) as pool:
        with deaf_children():
            futures: dict[Future[Curve], str] = {
                pool.submit(curve, question): question.planned.label for question in questions
            }
        try:
            for future in as_completed(futures):
                future.result()
                done(futures[future])
        except BaseException:
            for process in active_children():
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started here never hear Ctrl-C: who started them ends them.

    Otherwise each that is still importing would print where that was.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ready() -> None:
    """Ready a process: it ends with its parent, and its garbage is not its libraries'."""
    import warnings  # noqa: PLC0415

    from petl_bench.worker import end_with_parent, warm_up  # noqa: PLC0415

    end_with_parent()
    warm_up()
    warnings.simplefilter("ignore")
    os.dup2(2, 1)  # what a library prints must not be in the answer


def curve(question: Question) -> Curve:
    """The most that fits of one method, at every memory."""
    from petl_bench.fit.probe import Probe  # noqa: PLC0415 - only workers import torch

    return Probe(question).curve()
