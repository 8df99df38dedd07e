"""Phase load: everything that is there before the first step enters the ledger."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from petl_bench.assembly import Trainee
from petl_bench.case import Parallel, Workload
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category, Phase


def adopt_trainee(ledger: Ledger, trainee: Trainee) -> None:
    """Phase load of one process alone."""
    start = ledger.begin(Phase.LOAD)
    _adopt(ledger, trainee)
    ledger.end(0, Phase.LOAD, start)


@contextmanager
def loaded(ledger: Ledger, trainee: Trainee, workload: Workload) -> Iterator[Trainee]:
    """Phase load of one of the workload's ranks, and that rank's trainee while it trains.

    Under FSDP2 it never holds more than its part: tensors are sharded before they have memory.

    Raises:
        UsageError: the ranks cannot train the model.
    """
    if workload.parallel is Parallel.NONE:
        adopt_trainee(ledger, trainee)
        yield trainee
        return
    from petl_bench.profilers.simulated.ranks import (  # noqa: PLC0415 - a second to import
        ddp,
        fsdp2,
    )

    with ExitStack() as ranks:
        start = ledger.begin(Phase.LOAD)
        if workload.parallel is Parallel.FSDP2:
            ranks.enter_context(fsdp2.sharded(ledger, trainee, workload))
        _adopt(ledger, trainee)
        if workload.parallel is Parallel.DDP:
            trainee = ranks.enter_context(ddp.wrapped(ledger, trainee, workload))
        ledger.end(0, Phase.LOAD, start)
        yield trainee


def _adopt(ledger: Ledger, trainee: Trainee) -> None:
    ledger.adopt(trainee.model.parameters(), Category.PARAMETER)
    ledger.adopt(trainee.model.buffers(), Category.BUFFER)
    ledger.adopt(trainee.buckets, Category.GRADIENT)
