"""What goes to a worker and what comes back: documents alone, whatever carries them."""

import signal

from petl_bench.case import Case, Frozen
from petl_bench.record import Environment, Origin, Record

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a worker that Ctrl-C has ended."""


class Place(Frozen):
    """Where cases are tried: a device that is here, or a card that is not."""

    origin: Origin
    card: str  # the one to simulate; where it is measured, the device says its own name
    emulates: str | None = None  # the era of PyTorch to simulate; None: today's
    allocator_settings: str = ""  # as PyTorch reads them from the environment


class Task(Frozen):
    """One case to run."""

    case: Case
    label: str


class Job(Frozen):
    """A task and its place; without a task, the question what the place is."""

    place: Place
    task: Task | None = None


class Answer(Frozen):
    """What came of a job: the environment asked for, a record, or the loss of its worker."""

    environment: Environment | None = None
    record: Record | None = None
    lost: str | None = None  # how, in one sentence
    again: bool = True  # whether a second worker may fare better
