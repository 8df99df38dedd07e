"""Every method is asked what fits, each in a process of its own."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context

from petl_bench.cards import Card
from petl_bench.environment import simulated_environment
from petl_bench.errors import UsageError
from petl_bench.fit.answers import Curve, Frontier
from petl_bench.fit.axis import Vary, axis_of_backbones
from petl_bench.suite import PlannedCase
from petl_bench.units import format_bytes


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


def ask(
    plan: Sequence[PlannedCase],
    vary: Vary,
    card: Card,
    memory_bytes: tuple[int, ...],
    done: Callable[[str], None],
) -> Frontier:
    """The most that fits of each method; `done` hears the label of each as it is there.

    Raises:
        UsageError: backbones are to vary, and none is built in of the family asked for.
    """
    places: tuple[str, ...] = ()
    if vary is Vary.BACKBONE:
        places = tuple(each.name for each in axis_of_backbones(plan[0].case.backbone))
    questions = [
        Question(planned=planned, vary=vary, card=card, memory_bytes=memory_bytes)
        for planned in plan
    ]
    return Frontier(
        vary=vary,
        environment=simulated_environment(card),
        context_bytes=card.context_bytes,
        memory_bytes=memory_bytes,
        places=places,
        curves=tuple(curves(questions, done)),
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
    from petl_bench.fit.probe import Probe  # noqa: PLC0415 - its simulator is for workers

    return Probe(question).curve()
