"""Plan to records: an executor runs the cases, and what comes back is stored as it comes.

A case that fails, hangs or takes its worker down is a record like any other, and the run goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NamedTuple

from petl_bench import cards, registry
from petl_bench.cards import Card
from petl_bench.environment import allocator_conf, simulated_environment
from petl_bench.errors import UsageError
from petl_bench.executors.local import LocalExecutor
from petl_bench.jobs import Answer, Job, Place, Task
from petl_bench.lane import WorkerDiedError, run_job
from petl_bench.record import Environment, Origin, Record, Status
from petl_bench.store import Expected, Store
from petl_bench.suite import PlannedCase

ATTEMPTS = 2
"""How often a case is tried whose worker is lost.

That may have been the machine's doing: a killer of processes that runs when memory is short, a
node that went away.
"""


Progress = Callable[[PlannedCase, int], None]
"""Told the first cell in the plan that is not done, before each that comes, and how many are."""


class Cell(NamedTuple):
    """A case, and where to run it."""

    place: Place
    planned: PlannedCase


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs plans in one place."""

    origin: Origin
    card: Card  # the one to simulate; where it is measured, the device says its own name
    emulates: str | None = None  # the era of PyTorch to simulate; None: today's
    executor: Executor | None = None  # None: one lane here, for as long as a plan takes

    def run(
        self, plan: Sequence[PlannedCase], store: Store, progress: Progress
    ) -> Iterator[Record]:
        """Records of `plan` in its order: those in `store` already, and new ones, stored.

        Raises:
            UsageError: measuring is impossible on this machine.
            KeyboardInterrupt: the user ended the run, here or in a worker.
        """
        return run(self.cells(plan), store, progress, self.executor)

    def cells(self, plan: Sequence[PlannedCase]) -> list[Cell]:
        """The plan's cells, each in this place."""
        place = Place(
            origin=self.origin,
            card=self.card.name,
            emulates=self.emulates,
            allocator_settings=allocator_conf(),
        )
        return [Cell(place, planned) for planned in plan]


def run(
    cells: Sequence[Cell], store: Store, progress: Progress, executor: Executor | None = None
) -> Iterator[Record]:
    """Records of `cells` in their order: those in `store` already, and new ones.

    They are stored as they come, in any order, and by this process alone.

    Raises:
        UsageError: measuring is impossible where the executor runs.
        KeyboardInterrupt: the user ended the run, here or in a worker.
    """
    with store.or_nothing(), ExitStack() as stack:
        executor = executor or stack.enter_context(LocalExecutor())
        under_way = _UnderWay(executor)
        environments: dict[Place, Environment] = {}
        asked: list[Expected] = []
        found: dict[int, Record] = {}
        for index, (place, planned) in enumerate(cells):
            if place not in environments:
                environments[place] = _environment(place, executor)
            sha256 = registry.source_sha256(registry.get(planned.case.method.name))
            asked.append(Expected(planned.case.case_id, place.origin, environments[place], sha256))
            record = store.finished(asked[index])
            if record is None:
                under_way.submit(index, cells[index])
            else:
                found[index] = record
        for index, cell in enumerate(cells):
            while index not in found:
                progress(cell.planned, len(found))
                came, answer = under_way.next()
                record = answer.record or _error(cells[came], asked[came], answer)
                store.append(record)
                found[came] = record
            yield found[index]


class _UnderWay:
    """Cells that an executor has been asked for; one that is lost is asked for again."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._ended: SimpleQueue[tuple[int, Cell, int, Future[str]]] = SimpleQueue()

    def submit(self, index: int, cell: Cell, attempt: int = 1) -> None:
        job = Job(place=cell.place, task=Task(case=cell.planned.case, label=cell.planned.label))
        future = self._executor.submit(run_job, job.model_dump_json())
        future.add_done_callback(lambda future: self._ended.put((index, cell, attempt, future)))

    def next(self) -> tuple[int, Answer]:
        """Wait for any of them, and say which came."""
        while True:
            index, cell, attempt, future = self._ended.get()
            answer = _answer(future)
            if answer.lost is None or not answer.again or attempt == ATTEMPTS:
                return index, answer
            self.submit(index, cell, attempt + 1)


def _answer(future: Future[str]) -> Answer:
    try:
        return Answer.model_validate_json(future.result())
    except WorkerDiedError as error:  # with the process that ran the lane, or its machine
        return Answer(lost=str(error))


def _environment(place: Place, executor: Executor) -> Environment:
    """What a record from `place` will say of it."""
    if place.origin is Origin.SIMULATED:
        return simulated_environment(cards.find(place.card), place.emulates)
    answer = _answer(executor.submit(run_job, Job(place=place).model_dump_json()))
    if answer.environment is None:
        raise UsageError(f"profiler: cuda cannot start here: {answer.lost}")
    return answer.environment


def _error(cell: Cell, asked: Expected, answer: Answer) -> Record:
    return Record(
        **asked._asdict(),
        case=cell.planned.case,
        label=cell.planned.label,
        status=Status.ERROR,
        reason=answer.lost,
    )
