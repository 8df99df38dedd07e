"""From a stream of allocations and frees to what the caching allocator's counters would say."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from petl_bench.profilers.simulated.allocator import AllocatorSettings, CachingAllocator
from petl_bench.profilers.simulated.ledger import Ledger, Window
from petl_bench.profilers.simulated.windows import Replay
from petl_bench.record import Category, PhaseMemory, TimelinePoint

TIMELINE_POINTS = 240  # enough for a screen, few enough for a JSON line
_CATEGORIES = tuple(Category)


@dataclass
class _Peak:
    """Running maxima of one window."""

    allocated: int = 0
    reserved: int = 0
    requested: int = 0
    by_category: list[int] = field(default_factory=lambda: [0] * len(_CATEGORIES))


@dataclass(frozen=True, slots=True)
class Life:
    """One storage's time in a step."""

    index: int  # in the ledger
    block_bytes: int
    born: int  # event of the step; -1 for what was there before
    died: int | None  # None for what stays


class Accountant:
    """Replays windows of a ledger through one allocator, in the order they are given."""

    def __init__(
        self, ledger: Ledger, settings: AllocatorSettings, steps: Replay | None = None
    ) -> None:
        """`steps`, if windows of its steady step are to be replayed more than once."""
        self._ledger = ledger
        # An account goes on where a device would be full; `capacity` tells when that is.
        unlimited = replace(settings, per_process_memory_fraction=1.0)
        self._allocator = CachingAllocator(settings=unlimited)
        self._steps = steps
        self._blocks: dict[int, int] = {}  # live storage -> bytes of its block
        self._by_category = [0] * len(_CATEGORIES)
        order = {category: position for position, category in enumerate(_CATEGORIES)}
        self._category_of = [order[category] for category in ledger.categories]

    def replay(self, window: Window) -> PhaseMemory:
        """Memory of one window."""
        peak = self._raised(_Peak())
        for event in self._ledger.events[window.start : window.stop]:
            self._apply(event)
            if event >= 0:  # a free raises nothing
                peak = self._raised(peak)
        self._rename_after(window)
        return PhaseMemory(
            peak_allocated_bytes=peak.allocated,
            peak_reserved_bytes=peak.reserved,
            end_allocated_bytes=self._allocator.allocated_bytes,
            peak_requested_bytes=peak.requested,
            by_category=_named(peak.by_category),
        )

    def blocks_at_peak(self, windows: Sequence[Window]) -> tuple[Window, dict[int, int]]:
        """The window of the highest allocated moment, and the block of each storage alive then.

        Blocks are in bytes, by the storage's index in the ledger.
        """
        peak, at_peak = 0, (windows[0], dict[int, int]())
        for window in windows:
            for event in (None, *self._ledger.events[window.start : window.stop]):
                if event is not None:
                    self._apply(event)
                if self._allocator.allocated_bytes > peak:
                    peak = self._allocator.allocated_bytes
                    at_peak = window, self._blocks.copy()
            self._rename_after(window)
        return at_peak

    def timeline(self, windows: Sequence[Window]) -> list[TimelinePoint]:
        """The highest moment of each of some hundred stretches of a step, after its start."""
        first, last = windows[0].start, windows[-1].stop
        stretch = max(1, (last - first) // TIMELINE_POINTS)
        points = []
        for window in windows:
            for start in range(window.start, window.stop, stretch):
                stop = min(start + stretch, window.stop)
                crest = self._raised(_Peak())
                for event in self._ledger.events[start:stop]:
                    self._apply(event)
                    if event >= 0:
                        crest = self._raised(crest)
                by_category = _named(crest.by_category)
                points.append(
                    TimelinePoint(event=stop - first, phase=window.phase, by_category=by_category)
                )
        return points

    def lives(self, windows: Sequence[Window]) -> tuple[list[Life], list[TimelinePoint]]:
        """Every storage of a step, and the moments of `timeline`, each with its own event."""
        first, last = windows[0].start, windows[-1].stop
        stretch = max(1, (last - first) // TIMELINE_POINTS)
        born = dict.fromkeys(self._blocks, -1)
        sizes = dict(self._blocks)
        died: dict[int, int] = {}
        points = []
        for window in windows:
            for start in range(window.start, window.stop, stretch):
                crest, moment = self._raised(_Peak()), start - first - 1
                for place in range(start, min(start + stretch, window.stop)):
                    event = self._ledger.events[place]
                    self._apply(event)
                    if event < 0:
                        died[~event] = place - first
                    else:
                        born[event], sizes[event] = place - first, self._blocks[event]
                    if self._allocator.allocated_bytes > crest.allocated:
                        crest, moment = self._raised(crest), place - first
                point = TimelinePoint(
                    event=moment, phase=window.phase, by_category=_named(crest.by_category)
                )
                points.append(point)
        lives = [Life(index, sizes[index], when, died.get(index)) for index, when in born.items()]
        return lives, points

    def _rename_after(self, window: Window) -> None:
        if self._steps is not None:
            for index, new in self._steps.renames_after(window).items():
                self._allocator.rename(index, new)
                self._blocks[new] = self._blocks.pop(index)

    def _apply(self, event: int) -> None:
        if event >= 0:
            ledger = self._ledger
            stream = ledger.streams.get(event, 0)
            block = self._allocator.malloc(event, ledger.sizes[event], stream)
            self._blocks[event] = block
            self._by_category[self._category_of[event]] += block
        else:
            self._allocator.free(~event)
            self._by_category[self._category_of[~event]] -= self._blocks.pop(~event)

    def _raised(self, peak: _Peak) -> _Peak:
        """`peak`, raised to the present where that is higher."""
        allocator = self._allocator
        if allocator.allocated_bytes > peak.allocated:
            peak.allocated = allocator.allocated_bytes
            peak.by_category = self._by_category.copy()
        peak.reserved = max(peak.reserved, allocator.reserved_bytes)
        peak.requested = max(peak.requested, allocator.requested_bytes)
        return peak


def _named(by_category: list[int]) -> dict[Category, int]:
    return {c: size for c, size in zip(_CATEGORIES, by_category, strict=True) if size}
