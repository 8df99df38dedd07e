"""Whether a case fits: its ledger replayed through an allocator that can run full."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from petl_bench.case import Workload
from petl_bench.profilers.simulated.allocator import (
    AllocatorSettings,
    CachingAllocator,
    OutOfMemoryError,
)
from petl_bench.profilers.simulated.ledger import Window
from petl_bench.profilers.simulated.windows import Recorded, Replay, split
from petl_bench.record import Refusal


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a case in so many bytes."""

    refusal: Refusal | None  # the first; None where the case fits
    refused: int | None  # index in the ledger of the storage that was refused
    peak_allocated_bytes: int  # of the measured steps, or of what came before a refusal
    peak_reserved_bytes: int  # likewise


def attempt(
    ledger: Recorded, workload: Workload, capacity_bytes: int | None, settings: AllocatorSettings
) -> Trial:
    """The case in `capacity_bytes`; None is a device that is never full.

    Fragments count, and so does what helps against them: where the device is full, cached
    segments are released and the request is tried again. Loading, the warm-up and the measured
    steps are replayed, at about a microsecond an event; a step that leaves everything where the
    one before it did is the last, since all others would do the same.
    """
    allocator = CachingAllocator(capacity_bytes, settings)
    replay = split(ledger, workload)
    trial = _replayed(allocator, ledger, replay, (replay.load, *replay.warm_up))
    if trial.refusal is not None:
        return trial
    allocated = reserved = 0
    layout = allocator.layout()
    for _ in range(workload.measured_steps):
        trial = _replayed(allocator, ledger, replay, replay.steady)
        allocated = max(allocated, trial.peak_allocated_bytes)
        reserved = max(reserved, trial.peak_reserved_bytes)
        before, layout = layout, allocator.layout()
        if trial.refusal is not None or layout == before:
            break
    return replace(trial, peak_allocated_bytes=allocated, peak_reserved_bytes=reserved)


def _replayed(
    allocator: CachingAllocator, ledger: Recorded, replay: Replay, windows: Iterable[Window]
) -> Trial:
    """What comes of `windows` alone, one after the other."""
    allocated, reserved = allocator.allocated_bytes, allocator.reserved_bytes
    for window in windows:
        for event in ledger.events[window.start : window.stop]:
            if event < 0:
                allocator.free(~event)
                continue
            try:
                allocator.malloc(event, ledger.sizes[event], ledger.streams.get(event, 0))
            except OutOfMemoryError as error:
                refusal = Refusal(
                    requested_bytes=ledger.sizes[event],
                    phase=window.phase,
                    category=ledger.categories[event],
                    operator=ledger.operators[event],
                    allocated_bytes=error.allocated_bytes,
                    reserved_bytes=error.reserved_bytes,
                )
                return Trial(
                    refusal=refusal,
                    refused=event,
                    peak_allocated_bytes=allocated,
                    peak_reserved_bytes=reserved,
                )
            allocated = max(allocated, allocator.allocated_bytes)
            reserved = max(reserved, allocator.reserved_bytes)
        for index, new in replay.renames_after(window).items():
            allocator.rename(index, new)
    return Trial(
        refusal=None, refused=None, peak_allocated_bytes=allocated, peak_reserved_bytes=reserved
    )


def refusal(
    ledger: Recorded, workload: Workload, capacity_bytes: int, settings: AllocatorSettings
) -> Refusal | None:
    """The first request that `capacity_bytes` are too few for; None where the case fits."""
    return attempt(ledger, workload, capacity_bytes, settings).refusal
