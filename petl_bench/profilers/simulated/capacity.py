"""Whether a case fits: its ledger replayed through an allocator that can run full."""

from petl_bench.case import Workload
from petl_bench.profilers.simulated.allocator import CachingAllocator, OutOfMemoryError
from petl_bench.profilers.simulated.allocator_settings import AllocatorSettings
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.windows import split
from petl_bench.record import Refusal


def refusal(
    ledger: Ledger, workload: Workload, capacity_bytes: int, settings: AllocatorSettings
) -> Refusal | None:
    """The first request that `capacity_bytes` are too few for; None where the case fits.

    Fragments count, and so does what helps against them: where the device is full, cached
    segments are released and the request is tried again. Loading, the warm-up and each measured
    step are replayed, at about a microsecond an event.
    """
    allocator = CachingAllocator(capacity_bytes, settings)
    load, warm_up, steady = split(ledger, workload)
    for window in (load, *warm_up, *steady * workload.measured_steps):
        for event in ledger.events[window.start : window.stop]:
            if event < 0:
                allocator.free(~event)
                continue
            try:
                allocator.malloc(event, ledger.sizes[event])
            except OutOfMemoryError as error:
                return Refusal(
                    requested_bytes=ledger.sizes[event],
                    phase=window.phase,
                    category=ledger.categories[event],
                    operator=ledger.operators[event],
                    allocated_bytes=error.allocated_bytes,
                    reserved_bytes=error.reserved_bytes,
                )
    return None
