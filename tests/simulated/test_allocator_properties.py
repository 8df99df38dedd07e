"""What holds for the caching allocator whatever is allocated and freed."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from petl_bench.profilers.simulated.allocator import (
    AllocatorSettings,
    CachingAllocator,
    OutOfMemoryError,
)
from petl_bench.profilers.simulated.allocator.device import Device
from petl_bench.profilers.simulated.allocator.snapshot import snapshot
from petl_bench.profilers.simulated.allocator.trace import replay
from petl_bench.units import MIB

BOUNDARIES = (512, MIB, 10 * MIB, 12 * MIB, 20 * MIB, 39_321_600)
SIZES = st.one_of(
    st.integers(0, 4096),
    st.integers(0, 3 * MIB),
    st.integers(0, 64 * MIB),
    st.builds(lambda size, more: size + more, st.sampled_from(BOUNDARIES), st.integers(-1, 513)),
)
# A number frees one of the live storages, oldest first; None empties the cache.
FREES = st.integers(0, 30).map(lambda index: ("free", index))
EVENTS = st.lists(
    st.one_of(SIZES.map(lambda size: ("malloc", size)), FREES), min_size=1, max_size=60
)
EVENTS_AND_FLUSHES = st.lists(
    st.one_of(SIZES.map(lambda size: ("malloc", size)), FREES, st.just(("flush", 0))),
    min_size=1,
    max_size=60,
)
SETTINGS = st.sampled_from(
    [
        "",
        "max_split_size_mb:20",
        "max_split_size_mb:24,max_non_split_rounding_mb:40",
        "large_segment_size_mb:12",
        "roundup_power2_divisions:4",
        "expandable_segments:True",
        "expandable_segments:True,max_split_size_mb:24",
        "expandable_segments:True,large_segment_size_mb:11",
    ]
).map(AllocatorSettings.parse)


def run(allocator, events, after=lambda _allocator: None):
    """Apply `events`, skipping what does not fit; the requests that failed, and what lives on."""
    live = []
    failed = []
    for key, (action, number) in enumerate(events):
        if action == "malloc":
            try:
                allocator.malloc(key, number)
                live.append(key)
            except OutOfMemoryError:
                failed.append(key)
        elif action == "flush":
            allocator.empty_cache()
        elif live:
            allocator.free(live.pop(number % len(live)))
        after(allocator)
    return failed, live


def counters(allocator):
    return (
        allocator.allocated_bytes,
        allocator.active_bytes,
        allocator.requested_bytes,
        allocator.reserved_bytes,
        allocator.inactive_split_bytes,
        allocator.segment_count,
    )


def history(allocator, events):
    states = []
    run(allocator, events, lambda seen: states.append(counters(seen)))
    return states


def check_segments(allocator):
    """Blocks tile their segment, no two free ones touch, and the sums are the counters."""
    segments = snapshot(allocator)
    for segment in segments:
        end = segment["address"]
        for block in segment["blocks"]:
            assert block["address"] == end
            assert block["size"] > 0
            assert block["size"] % 512 == 0
            end += block["size"]
        assert end == segment["address"] + segment["total_size"]
        for left, right in pairwise(segment["blocks"]):
            assert "active_allocated" in (left["state"], right["state"])
    for left, right in pairwise(segments):
        assert left["address"] + left["total_size"] <= right["address"]
    assert sum(segment["total_size"] for segment in segments) == allocator.reserved_bytes
    assert sum(segment["allocated_size"] for segment in segments) == allocator.allocated_bytes
    assert sum(segment["requested_size"] for segment in segments) == allocator.requested_bytes


def check_order(allocator):
    assert allocator.reserved_bytes >= allocator.active_bytes >= allocator.allocated_bytes
    assert allocator.allocated_bytes >= allocator.requested_bytes >= 0
    assert allocator.allocated_bytes % 512 == 0
    assert allocator.reserved_bytes - allocator.active_bytes >= allocator.inactive_split_bytes


@given(EVENTS_AND_FLUSHES, SETTINGS, st.none() | st.integers(1, 300).map(lambda size: size * MIB))
def test_segments_are_tiled_by_merged_blocks_and_add_up(events, chosen, capacity):
    def check(allocator):
        check_segments(allocator)
        check_order(allocator)
        assert capacity is None or allocator.reserved_bytes <= capacity

    run(CachingAllocator(capacity, chosen), events, check)


@given(EVENTS_AND_FLUSHES, SETTINGS)
def test_each_request_is_charged_its_512_byte_rounding_or_more(events, chosen):
    allocator = CachingAllocator(settings=chosen)
    charged = [
        (allocator.malloc(key, number), number)
        for key, (action, number) in enumerate(events)
        if action == "malloc"
    ]
    assert all(charge >= -(-size // 512) * 512 for charge, size in charged)
    assert allocator.allocated_bytes == sum(charge for charge, _ in charged)


@given(EVENTS_AND_FLUSHES, SETTINGS, st.none() | st.integers(1, 300).map(lambda size: size * MIB))
def test_nothing_is_reserved_once_all_is_freed_and_the_cache_emptied(events, chosen, capacity):
    allocator = CachingAllocator(capacity, chosen)
    _, live = run(allocator, events)
    for key in live:
        allocator.free(key)
    allocator.empty_cache()
    assert counters(allocator) == (0, 0, 0, 0, 0, 0)
    assert snapshot(allocator) == []


@given(EVENTS_AND_FLUSHES, SETTINGS)
def test_the_same_events_give_the_same_numbers(events, chosen):
    first = history(CachingAllocator(settings=chosen), events)
    assert history(CachingAllocator(settings=chosen), events) == first


@given(EVENTS, SETTINGS)
def test_a_device_of_the_peak_reserved_bytes_is_never_out_of_memory(events, chosen):
    states = history(CachingAllocator(settings=chosen), events)
    peak_reserved = max(state[3] for state in states)
    limited = CachingAllocator(peak_reserved, chosen)
    assert history(limited, events) == states


@given(EVENTS, SETTINGS)
def test_a_device_of_less_than_the_peak_active_bytes_is_always_out_of_memory(events, chosen):
    states = history(CachingAllocator(settings=chosen), events)
    if (peak_active := max(state[1] for state in states)) == 0:
        return
    failed, _ = run(CachingAllocator(peak_active - 1, chosen), events)
    assert failed


class ListModel:
    """The default rules once more, by plain lists and full scans, to compare with."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.segments = []  # [is_small, [[size, key or None], ...]] in the order of addresses

    @property
    def reserved(self):
        return sum(size for _, parts in self.segments for size, _ in parts)

    @property
    def allocated(self):
        return sum(size for _, parts in self.segments for size, key in parts if key is not None)

    def malloc(self, key, size):
        if size == 0:
            return True
        size = -(-size // 512) * 512
        is_small = size <= MIB
        fits = [
            (parts[at][0], number, at)
            for number, (small, parts) in enumerate(self.segments)
            for at in range(len(parts))
            if small == is_small and parts[at][1] is None and parts[at][0] >= size
        ]
        if not fits and not self.grow(size, is_small=is_small):
            return False
        _, number, at = min(fits, default=(0, len(self.segments) - 1, 0))
        parts = self.segments[number][1]
        rest = parts[at][0] - size
        if rest >= 512 if is_small else rest > MIB:
            parts[at : at + 1] = [[size, key], [rest, None]]
        else:
            parts[at][1] = key
        return True

    def grow(self, size, *, is_small):
        total = 2 * MIB if is_small else 20 * MIB
        if size >= 10 * MIB:
            total = -(-size // (2 * MIB)) * 2 * MIB
        if self.reserved + total > self.capacity:
            self.flush()
        if self.reserved + total > self.capacity:
            return False
        self.segments.append([is_small, [[total, None]]])
        return True

    def free(self, key):
        for _, parts in self.segments:
            for part in parts:
                if part[1] == key:
                    part[1] = None
            for at in range(len(parts) - 1, 0, -1):
                if parts[at][1] is None and parts[at - 1][1] is None:
                    parts[at - 1][0] += parts.pop(at)[0]

    def flush(self):
        self.segments = [
            segment for segment in self.segments if any(key is not None for _, key in segment[1])
        ]


@settings(max_examples=300)
@given(EVENTS_AND_FLUSHES, st.integers(1, 300).map(lambda size: size * MIB))
def test_a_model_of_plain_lists_comes_to_the_same_numbers(events, capacity):
    allocator = CachingAllocator(capacity)
    model = ListModel(capacity)
    live = []
    for key, (action, number) in enumerate(events):
        if action == "malloc":
            expected = model.malloc(key, number)
            try:
                allocator.malloc(key, number)
                live.append(key)
            except OutOfMemoryError:
                assert not expected
            else:
                assert expected
        elif action == "flush":
            allocator.empty_cache()
            model.flush()
        elif live:
            freed = live.pop(number % len(live))
            allocator.free(freed)
            model.free(freed)
        assert allocator.reserved_bytes == model.reserved
        assert allocator.allocated_bytes == model.allocated


class FallingAddresses(Device):
    """A device whose addresses fall, as a GPU's may."""

    def new_address(self, size):
        return 2**47 - super().new_address(size) - size


class Recorder(CachingAllocator):
    """The model as the recorded GPU: writes the trace that PyTorch would, at odd addresses."""

    def __init__(self, chosen):
        super().__init__(settings=chosen)
        self._device = FallingAddresses()
        self.trace = []
        self.known = {}

    def note(self, action, address, size):
        self.trace.append({"action": action, "addr": address, "size": size, "stream": 0})

    def note_segments(self):
        now = {segment["address"]: segment["total_size"] for segment in snapshot(self)}
        for address in self.known.keys() - now.keys():
            self.note("segment_free", address, self.known[address])
        for address in now.keys() - self.known.keys():
            self.note("segment_alloc", address, now[address])
        self.known = now

    def malloc(self, key, size):
        charged = super().malloc(key, size)
        self.note_segments()
        if size:
            self.note("alloc", self._blocks[key].address, size)
        return charged

    def free(self, key):
        block = self._blocks[key]
        if block is not None:
            self.note("free_requested", block.address, block.requested_size)
            self.note("free_completed", block.address, block.requested_size)
        super().free(key)

    def empty_cache(self):
        super().empty_cache()
        self.note_segments()


@given(
    EVENTS_AND_FLUSHES,
    st.sampled_from(["", "max_split_size_mb:24", "large_segment_size_mb:12"]).map(
        AllocatorSettings.parse
    ),
)
def test_a_trace_of_the_model_itself_is_replayed_without_disagreement(events, chosen):
    recorder = Recorder(chosen)
    states = []
    run(recorder, events, lambda seen: states.append(counters(seen)))
    steps = list(replay(recorder.trace, chosen))
    assert all(step.agrees for step in steps)
    if steps:
        assert steps[-1].allocated_bytes == states[-1][0]
