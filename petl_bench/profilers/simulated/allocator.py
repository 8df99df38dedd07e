"""PyTorch's CUDA caching allocator for one device and one stream, to the byte, without a GPU.

Fed with allocations and frees it says what torch.cuda.memory_stats would say. Names in
parentheses are functions of c10/cuda/CUDACachingAllocator.cpp, whose rules these are:

1. A request is rounded up to 512 bytes (round_size) and served by the small pool up to 1 MiB,
   by the large pool above.
2. The smallest cached block that fits is taken, the lowest address among equals
   (get_free_block). What is left of it goes back to the pool when it is worth it
   (should_split); otherwise the block counts whole as allocated.
3. Without such a block a segment is asked of the device: 2 MiB for the small pool, 20 MiB for
   requests below 10 MiB, else the request rounded up to 2 MiB (get_allocation_size).
4. A freed block merges with the free block before it, then with the one after it (free_block).
5. When the device has no room, cached segments are released and the request is tried again;
   then it is out of memory (malloc).

Followed: torch 2.11 to 2.13. Left out: several streams and record_stream (a free is complete
at once, so active bytes equal allocated bytes), private pools of CUDA graphs and MemPool, and
backend:cudaMallocAsync.

Addresses are a choice of this model: the device hands them out in rising order, each once.
They decide only which of two free blocks of equal size is taken first.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from re import split as re_split
from typing import Any, Final, Literal, TypedDict

from petl_bench.errors import UsageError
from petl_bench.units import MIB, format_bytes

# c10/core/AllocatorConfig.h
K_MIN_BLOCK_SIZE: Final = 512  # kMinBlockSize
K_SMALL_SIZE: Final = 1 * MIB  # kSmallSize: the largest request of the small pool
K_SMALL_BUFFER: Final = 2 * MIB  # kSmallBuffer: a segment of the small pool
K_MIN_LARGE_ALLOC: Final = 10 * MIB  # kMinLargeAlloc: from here a request gets its own segment
K_ROUND_LARGE: Final = 2 * MIB  # kRoundLarge: the grain of such a segment
K_LARGE_SEGMENT_SIZE: Final = 20 * MIB  # large_segment_size_, which was kLargeBuffer once

# c10/core/AllocatorConfig.cpp
K_ROUND_UP_POWER_OF_TWO_INTERVALS: Final = 16  # from 1 MiB, each twice the one before

_UNBOUNDED_BYTES: Final = 2**60
"""A device that is never full; its addresses stay below those of any two expandable segments."""

_WITHOUT_EFFECT: Final = frozenset(
    {
        "graph_capture_record_stream_reuse",
        "pinned_free_catch_all",
        "pinned_max_cached_size_mb",
        "pinned_max_round_threshold_mb",
        "pinned_num_register_threads",
        "pinned_reserve_segment_size_mb",
        "pinned_use_background_threads",
        "pinned_use_cuda_host_register",
        "release_lock_on_cudamalloc",
    }
)
"""Options of PyTorch that move host memory, locks or graph captures, not the bytes counted here."""


class OutOfMemoryError(Exception):
    """A request that does not fit even after every cached segment was released."""

    def __init__(
        self, requested_bytes: int, allocated_bytes: int, reserved_bytes: int, capacity_bytes: int
    ) -> None:
        super().__init__(requested_bytes, allocated_bytes, reserved_bytes, capacity_bytes)
        self.requested_bytes = requested_bytes  # as asked, before rounding
        self.allocated_bytes = allocated_bytes
        self.reserved_bytes = reserved_bytes
        self.capacity_bytes = capacity_bytes

    def __str__(self) -> str:
        return (
            f"out of memory: {format_bytes(self.requested_bytes)} requested with "
            f"{format_bytes(self.allocated_bytes)} allocated and "
            f"{format_bytes(self.reserved_bytes)} reserved of {format_bytes(self.capacity_bytes)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AllocatorSettings:
    """PYTORCH_ALLOC_CONF (formerly PYTORCH_CUDA_ALLOC_CONF), as far as it moves device memory."""

    expandable_segments: bool = False
    large_segment_size_bytes: int = K_LARGE_SEGMENT_SIZE
    max_split_size_bytes: int | None = None  # None: blocks of any size are split
    max_non_split_rounding_bytes: int | None = None  # None: large_segment_size_bytes
    roundup_power2_divisions: tuple[int, ...] = (0,) * K_ROUND_UP_POWER_OF_TWO_INTERVALS
    garbage_collection_threshold: float = 0.0  # 0.0: never; acts only below a memory fraction of 1
    per_process_memory_fraction: float = 1.0

    def __post_init__(self) -> None:
        segment = self.large_segment_size_bytes
        if segment <= K_MIN_LARGE_ALLOC:
            raise UsageError("large_segment_size_mb must be above 10")
        for name, size in (
            ("max_split_size_mb", self.max_split_size_bytes),
            ("max_non_split_rounding_mb", self.max_non_split_rounding_bytes),
        ):
            if size is not None and size < segment:
                raise UsageError(f"{name} must be {segment // MIB} (the segment size) or more")
        if len(self.roundup_power2_divisions) != K_ROUND_UP_POWER_OF_TWO_INTERVALS:
            raise UsageError("roundup_power2_divisions takes 16 numbers, from 1 MiB to 32 GiB")
        if not all(_is_power_of_2(number) for number in self.roundup_power2_divisions if number):
            raise UsageError("roundup_power2_divisions takes powers of 2, or 0 for none")
        if not 0.0 <= self.garbage_collection_threshold < 1.0:
            raise UsageError("garbage_collection_threshold must lie between 0.0 and 1.0")
        if not 0.0 <= self.per_process_memory_fraction <= 1.0:
            raise UsageError("per_process_memory_fraction must lie between 0.0 and 1.0")

    @classmethod
    def parse(cls, text: str) -> "AllocatorSettings":
        """Settings written as in PYTORCH_ALLOC_CONF (AcceleratorAllocatorConfig::parseArgs).

        >>> AllocatorSettings.parse("max_split_size_mb:128").max_split_size_bytes == 128 * MIB
        True

        Raises:
            UsageError: an unknown option, a value it does not take, or one not modelled here.
        """
        fields: dict[str, Any] = {}
        for name, value in _options(text):
            if name in _PARSERS:
                field, parse = _PARSERS[name]
                fields[field] = parse(name, value)
            elif name in _CHOICES:
                _parse_choice(name, value, _CHOICES[name])
            elif name not in _WITHOUT_EFFECT:
                known = ", ".join(sorted({*_PARSERS, *_CHOICES, *_WITHOUT_EFFECT}))
                raise UsageError(f"{name!r} is no option of the allocator; choose from {known}")
        return cls(**fields)


def _options(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of name and value of `text`; a value in brackets stays whole."""
    packed = "".join(text.split())
    for part in re_split(r",(?![^\[]*\])", packed) if packed else ():
        name, colon, value = part.partition(":")
        if not (name and colon and value):
            raise UsageError(f"{part!r} is not an allocator option; write name:value,name:value")
        yield name, value


def _is_power_of_2(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _parse_choice(name: str, value: str, choices: Mapping[str, bool]) -> bool:
    if value not in choices:
        raise UsageError(f"{name} takes {' or '.join(choices)} here, not {value!r}")
    return choices[value]


def _parse_bool(name: str, value: str) -> bool:
    return _parse_choice(name, value, {"True": True, "False": False})


def _parse_count(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise UsageError(f"{name} takes whole numbers, not {value!r}")
    return int(value)


def _parse_mib(name: str, value: str) -> int:
    return _parse_count(name, value) * MIB


def _parse_fraction(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"{name} takes a number from 0.0 to 1.0, not {value!r}") from None


def _parse_divisions(name: str, value: str) -> tuple[int, ...]:
    """Divisions of each power of 2 (AcceleratorAllocatorConfig::parseRoundUpPower2Divisions).

    "4" stands for all sizes. "[256:1,512:2,>:8]" gives 1 up to 256 MiB and for sizes up to
    512 MiB, 2 for those from 512 MiB to 1 GiB, 8 for all above; a gap keeps 0.
    """
    if not value.startswith("["):
        return (_parse_count(name, value),) * K_ROUND_UP_POWER_OF_TWO_INTERVALS
    divisions = [0] * K_ROUND_UP_POWER_OF_TWO_INTERVALS
    last = 0
    first = True
    for entry in value.strip("[]").split(","):
        start, _, number = entry.partition(":")
        count = _parse_count(name, number)
        if start == ">":
            divisions[last + 1 :] = [count] * (K_ROUND_UP_POWER_OF_TWO_INTERVALS - last - 1)
            continue
        start_mib = _parse_count(name, start)
        if not _is_power_of_2(start_mib):
            raise UsageError(f"{name} takes intervals that start at a power of 2, not {start!r}")
        last = min(start_mib.bit_length(), K_ROUND_UP_POWER_OF_TWO_INTERVALS) - 1
        if first:
            divisions[:last] = [count] * last
            first = False
        divisions[last] = count
    return tuple(divisions)


_CHOICES: Final[Mapping[str, Mapping[str, bool]]] = {
    "backend": {"native": True},
    "throw_on_cudamalloc_oom": {"False": False},
}

_PARSERS: Final[Mapping[str, tuple[str, Callable[[str, str], object]]]] = {
    "expandable_segments": ("expandable_segments", _parse_bool),
    "garbage_collection_threshold": ("garbage_collection_threshold", _parse_fraction),
    "large_segment_size_mb": ("large_segment_size_bytes", _parse_mib),
    "max_non_split_rounding_mb": ("max_non_split_rounding_bytes", _parse_mib),
    "max_split_size_mb": ("max_split_size_bytes", _parse_mib),
    "per_process_memory_fraction": ("per_process_memory_fraction", _parse_fraction),
    "roundup_power2_divisions": ("roundup_power2_divisions", _parse_divisions),
}


DEFAULT_SETTINGS: Final = AllocatorSettings()


class BlockInfo(TypedDict):
    """One block of a segment, as in torch.cuda.memory_snapshot; sizes in bytes."""

    address: int
    size: int
    requested_size: int  # as last asked for; a free block keeps an old one
    state: Literal["active_allocated", "inactive"]


class SegmentInfo(TypedDict):
    """One contiguous run of device memory, as in torch.cuda.memory_snapshot; sizes in bytes."""

    address: int
    total_size: int
    allocated_size: int
    active_size: int
    requested_size: int
    stream: int
    segment_type: Literal["large", "small"]
    is_expandable: bool
    blocks: list[BlockInfo]


class _ExpandableSegment:
    """A range of addresses that is backed by memory page by page (struct ExpandableSegment)."""

    __slots__ = ("address", "page_size", "size")

    def __init__(self, address: int, size: int, page_size: int) -> None:
        self.address = address
        self.size = size
        self.page_size = page_size

    def pages_inside(self, block: "_Block") -> tuple[int, int]:
        """Addresses of the first and past the last page that `block` fills (unmap)."""
        start = block.address - self.address
        begin = -(-start // self.page_size) * self.page_size
        end = (start + block.size) // self.page_size * self.page_size
        return self.address + begin, self.address + end


class _Block:
    """A run of bytes within a segment, used or free (struct Block)."""

    __slots__ = (
        "address",
        "allocated",
        "gc_count_base",
        "mapped",
        "next",
        "pool",
        "prev",
        "requested_size",
        "segment",
        "size",
    )

    def __init__(
        self, address: int, size: int, pool: "_Pool", segment: _ExpandableSegment | None
    ) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.segment = segment  # None in memory from cudaMalloc
        self.requested_size = 0
        self.allocated = False
        self.mapped = True
        self.gc_count_base = 0
        self.prev: _Block | None = None
        self.next: _Block | None = None

    def splice(self, before: "_Block | None", after: "_Block | None") -> None:
        """Put this block between two neighbours."""
        self.prev = before
        self.next = after
        if before is not None:
            before.next = self
        if after is not None:
            after.prev = self

    @property
    def is_split(self) -> bool:
        return self.prev is not None or self.next is not None

    @property
    def expandable_size(self) -> int:
        """Bytes it can grow to: its own and those of the unmapped block behind it."""
        behind = self.next
        return self.size + (behind.size if behind is not None and not behind.mapped else 0)


class _Pool:
    """Free blocks of one pool (struct BlockPool).

    `blocks` is sorted by size, then address (BlockComparatorSize), `unmapped` by address
    (BlockComparatorAddress). No two entries agree so far that blocks would be compared.
    """

    __slots__ = (
        "blocks",
        "get_free_blocks_call_count",
        "is_small",
        "page_size",
        "smallest_remainder",
        "split_below",
        "unmapped",
    )

    def __init__(self, *, is_small: bool, settings: AllocatorSettings) -> None:
        self.blocks: list[tuple[int, int, _Block]] = []
        self.unmapped: list[tuple[int, _Block]] = []
        self.is_small = is_small
        self.page_size = K_SMALL_BUFFER if is_small else settings.large_segment_size_bytes
        self.get_free_blocks_call_count = 0
        # should_split: the large pool without expandable segments leaves 1 MiB or less on a
        # block (all sizes are multiples of 512), and all on a request of max_split_size or more.
        fine = is_small or settings.expandable_segments
        self.smallest_remainder = K_MIN_BLOCK_SIZE if fine else K_SMALL_SIZE + K_MIN_BLOCK_SIZE
        self.split_below = inf if fine else _or_inf(settings.max_split_size_bytes)

    def insert(self, block: _Block) -> None:
        block.gc_count_base = self.get_free_blocks_call_count
        insort(self.blocks, (block.size, block.address, block))

    def remove(self, block: _Block) -> None:
        del self.blocks[bisect_left(self.blocks, (block.size, block.address))]

    def insert_unmapped(self, block: _Block) -> None:
        insort(self.unmapped, (block.address, block))

    def remove_unmapped(self, block: _Block) -> None:
        del self.unmapped[bisect_left(self.unmapped, (block.address,))]

    def age(self, block: _Block) -> int:
        """Searches of this pool since `block` was freed (Block::gc_count)."""
        return self.get_free_blocks_call_count - block.gc_count_base


def _or_inf(size: int | None) -> float:
    return inf if size is None else size


class CachingAllocator:
    """The allocator of one device of `capacity_bytes` (None: never full), used by one stream.

    `capacity_bytes` is what the device can give to this allocator: its memory less the CUDA
    context and other processes. It also stands for totalGlobalMem in per_process_memory_fraction.

    >>> allocator = CachingAllocator()
    >>> allocator.malloc(0, 39_321_600) - 39_321_600  # the rest of the 2 MiB is not split off
    524288
    """

    def __init__(
        self,
        capacity_bytes: int | None = None,
        settings: AllocatorSettings = DEFAULT_SETTINGS,
    ) -> None:
        self.settings = settings
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes = 0
        self.requested_bytes = 0
        self.reserved_bytes = 0
        self.segment_count = 0  # "segment.all.current": calls of cudaMalloc not yet freed
        self._small = _Pool(is_small=True, settings=settings)
        self._large = _Pool(is_small=False, settings=settings)
        self._blocks: dict[int, _Block | None] = {}  # by key; None for an empty storage
        self._expandable = settings.expandable_segments
        self._rounds_up = any(number > 1 for number in settings.roundup_power2_divisions)
        self._max_split_size = _or_inf(settings.max_split_size_bytes)
        self._max_non_split_rounding = (
            settings.max_non_split_rounding_bytes or settings.large_segment_size_bytes
        )
        self._total = _UNBOUNDED_BYTES if capacity_bytes is None else capacity_bytes
        self._allowed = self._memory_fraction()
        self._restricted = settings.per_process_memory_fraction < 1.0
        self._collects = self._restricted and settings.garbage_collection_threshold > 0
        self._unused_address = K_ROUND_LARGE  # 0 would be the null pointer

    @property
    def active_bytes(self) -> int:
        """Bytes of blocks in use: with one stream, those allocated."""
        return self.allocated_bytes

    @property
    def inactive_split_bytes(self) -> int:
        """Bytes of free blocks that share their segment, expandable segments left out."""
        return sum(
            size
            for pool in (self._small, self._large)
            for size, _, block in pool.blocks
            if block.is_split and block.segment is None
        )

    def malloc(self, key: int, size: int) -> int:
        """Bytes charged to `allocated` for a storage of `size` bytes, known as `key` from here.

        An empty storage has no block and is charged nothing.

        Raises:
            OutOfMemoryError: it does not fit. Cached segments are gone by then.
        """
        if key in self._blocks:
            raise ValueError(f"{key} is allocated already")
        if size <= 0:
            if size < 0:
                raise ValueError(f"{size} bytes cannot be allocated")
            self._blocks[key] = None
            return 0
        rounded = self._round_size(size)
        pool = self._small if rounded <= K_SMALL_SIZE else self._large
        block = self._get_free_block(pool, rounded) or self._get_new_block(pool, rounded)
        if block is None:
            raise OutOfMemoryError(size, self.allocated_bytes, self.reserved_bytes, self._allowed)
        if block.size - rounded >= pool.smallest_remainder and rounded < pool.split_below:
            block = self._split(block, rounded)
        block.allocated = True
        block.requested_size = size
        self._blocks[key] = block
        self.allocated_bytes += block.size
        self.requested_bytes += size
        return block.size

    def free(self, key: int) -> None:
        """Give the block of `key` back to its pool, merged with free neighbours (free_block)."""
        block = self._blocks.pop(key)
        if block is None:
            return
        self.allocated_bytes -= block.size
        self.requested_bytes -= block.requested_size
        block.allocated = False
        if block.prev is not None:
            self._try_merge(block, block.prev)
        if block.next is not None:
            self._try_merge(block, block.next)
        block.pool.insert(block)

    def empty_cache(self) -> None:
        """Give back to the device all it can do without (release_cached_blocks)."""
        for pool in (self._large, self._small):
            for _, _, block in tuple(pool.blocks):
                if block.segment is not None:
                    self._unmap_block(block, block.segment)
                elif not block.is_split:
                    self._release_block(block)

    def segments(self) -> list[SegmentInfo]:
        """Segments and their blocks by address, in the form of torch.cuda.memory_snapshot."""
        free = [entry[-1] for pool in (self._small, self._large) for entry in pool.blocks]
        used = [block for block in self._blocks.values() if block is not None]
        heads = [block for block in free + used if block.prev is None or not block.prev.mapped]
        return [_segment_info(head) for head in sorted(heads, key=lambda block: block.address)]

    def _memory_fraction(self) -> int:
        """Bytes that this process may reserve (setMemoryFraction)."""
        fraction = self.settings.per_process_memory_fraction
        if fraction < 1.0 and self.capacity_bytes is None:
            raise UsageError("per_process_memory_fraction below 1.0 needs a capacity")
        return self._total if fraction == 1.0 else int(fraction * self._total)

    def _round_size(self, size: int) -> int:
        """`size` rounded up to 512 bytes or to a division of a power of 2 (round_size)."""
        if self._rounds_up and size >= K_MIN_BLOCK_SIZE:
            # From 1 MiB (bit_length 21) in steps of powers of 2.
            interval = min(max(size.bit_length() - 21, 0), K_ROUND_UP_POWER_OF_TWO_INTERVALS - 1)
            divisions = self.settings.roundup_power2_divisions[interval]
            if divisions > 1 and size > K_MIN_BLOCK_SIZE * divisions:
                step = (1 << (size.bit_length() - 1)) // divisions
                return -(-size // step) * step
        return (size + K_MIN_BLOCK_SIZE - 1) & -K_MIN_BLOCK_SIZE

    def _allocation_size(self, size: int) -> int:
        """Bytes of the segment for a rounded request (get_allocation_size)."""
        if size <= K_SMALL_SIZE:
            return K_SMALL_BUFFER
        if size < K_MIN_LARGE_ALLOC:
            return self.settings.large_segment_size_bytes
        return -(-size // K_ROUND_LARGE) * K_ROUND_LARGE

    def _get_free_block(self, pool: _Pool, size: int) -> _Block | None:
        """The best cached block for `size`, taken out of its pool (get_free_block)."""
        if self._collects:
            pool.get_free_blocks_call_count += 1
        blocks = pool.blocks
        index = bisect_left(blocks, (size,))
        if index == len(blocks):
            return None
        if self._expandable:
            # The first block may have room behind it to grow; a later one that cannot grow
            # as far is the better fit.
            while (
                index + 1 < len(blocks)
                and blocks[index + 1][2].expandable_size < blocks[index][2].expandable_size
            ):
                index += 1
        found = blocks[index][0]
        if found >= self._max_split_size and (
            size < self._max_split_size or found >= size + self._max_non_split_rounding
        ):
            return None
        return blocks.pop(index)[2]

    def _get_new_block(self, pool: _Pool, size: int) -> _Block | None:
        """A block from the device, if need be after releasing cached segments (malloc)."""
        if self._collects:
            self._garbage_collect()
        block = self._alloc_block(pool, size)
        if block is None and self._release_available(pool, size):
            block = self._alloc_block(pool, size)
        if block is None:
            self.empty_cache()
            block = self._alloc_block(pool, size)
        return block

    def _alloc_block(self, pool: _Pool, size: int) -> _Block | None:
        """A fresh segment for `size`, None when there is no room (alloc_block)."""
        alloc_size = self._allocation_size(size)
        if self._restricted and self.reserved_bytes + alloc_size > self._allowed:
            return None
        if self._expandable:
            return self._try_allocate_expandable_block(pool, size)
        if self.reserved_bytes + alloc_size > self._total:
            return None
        self.reserved_bytes += alloc_size
        self.segment_count += 1
        return _Block(self._new_address(alloc_size), alloc_size, pool, None)

    def _new_address(self, size: int) -> int:
        """Where the device puts `size` bytes: behind everything before."""
        address = self._unused_address
        self._unused_address += -(-size // K_ROUND_LARGE) * K_ROUND_LARGE
        return address

    def _split(self, block: _Block, size: int) -> _Block:
        """The first `size` bytes of `block`; the rest goes to the pool (alloc_found_block)."""
        pool = block.pool
        front = _Block(block.address, size, pool, block.segment)
        front.splice(block.prev, block)
        block.address += size
        block.size -= size
        pool.insert(block)
        return front

    def _try_merge(self, block: _Block, other: _Block) -> None:
        """Take in the neighbour `other` if it is free too (try_merge_blocks)."""
        if other.allocated or block.mapped is not other.mapped:
            return
        if other.mapped:
            block.pool.remove(other)
        else:
            block.pool.remove_unmapped(other)
        if block.prev is other:
            block.address = other.address
            block.splice(other.prev, block.next)
        else:
            block.splice(block.prev, other.next)
        block.size += other.size

    def _release_block(self, block: _Block) -> None:
        """Give a whole free segment back to the device (release_block)."""
        block.pool.remove(block)
        self.reserved_bytes -= block.size
        self.segment_count -= 1

    def _release_available(self, pool: _Pool, size: int) -> bool:
        """Release oversize blocks, no more than `size` needs (release_available_cached_blocks).

        True when at least that much was released.
        """
        if self.settings.max_split_size_bytes is None or self._expandable:
            return False
        wanted = max(size, self.settings.max_split_size_bytes)
        index = bisect_left(pool.blocks, (wanted,))
        if index < len(pool.blocks):
            self._release_block(pool.blocks[index][2])
            return True
        released = 0
        while released < wanted and pool.blocks and pool.blocks[-1][0] >= self._max_split_size:
            released += pool.blocks[-1][0]
            self._release_block(pool.blocks[-1][2])
        return released >= wanted

    def _garbage_collect(self) -> None:
        """Release the older large segments above a threshold (garbage_collect_cached_blocks)."""
        threshold = int(self.settings.garbage_collection_threshold * self._allowed)
        target = self.reserved_bytes - threshold
        pool = self._large
        whole = [block for _, _, block in pool.blocks if not block.is_split]
        while target > 0 and whole:
            mean_age = sum(map(pool.age, whole)) / len(whole)
            old = [b for b in whole if b.segment is None and pool.age(b) >= mean_age]
            if not old:
                return
            for block in old:
                target -= block.size
                self._release_block(block)
            whole = [block for block in whole if block not in old]

    def _try_allocate_expandable_block(self, pool: _Pool, size: int) -> _Block | None:
        """A free block of `size` or more made by mapping pages (try_allocate_expandable_block).

        Pages mapped before the device ran full stay as free blocks.
        """
        block = self._find_expandable_block(pool, size)
        if not block.mapped and not self._map_block(block, min(block.size, size)):
            return None
        while block.size < size:
            behind = block.next
            assert behind is not None
            if not self._map_block(behind, min(size - block.size, behind.size)):
                return None
            block = behind
        pool.remove(block)
        return block

    def _find_expandable_block(self, pool: _Pool, size: int) -> _Block:
        """The lowest run of free and unmapped blocks with `size` bytes (find_expandable_block)."""
        for _, unmapped in pool.unmapped:
            before = unmapped.prev
            start = before if before is not None and not before.allocated else unmapped
            if _has_available_address_space(start, size):
                return start
        page_size = pool.page_size
        # 1 1/8 of the device, in whole pages (ExpandableSegment::ExpandableSegment).
        span = -(-(self._total + self._total // 8) // page_size) * page_size
        segment = _ExpandableSegment(self._new_address(span), span, page_size)
        block = _Block(segment.address, span, pool, segment)
        block.mapped = False
        pool.insert_unmapped(block)
        return block

    def _map_block(self, block: _Block, size: int) -> bool:
        """Back the first `size` bytes of an unmapped block by whole pages (map_block)."""
        segment = block.segment
        assert segment is not None
        pool = block.pool
        mapped = -(-size // segment.page_size) * segment.page_size
        if self.reserved_bytes + mapped > self._total:
            return False
        pool.remove_unmapped(block)
        block.mapped = True
        if mapped < block.size:
            rest = _Block(block.address + mapped, block.size - mapped, pool, segment)
            rest.mapped = False
            rest.splice(block, block.next)
            pool.insert_unmapped(rest)
            block.size = mapped
        self._merge_neighbours(block)
        pool.insert(block)
        self.reserved_bytes += mapped
        return True

    def _unmap_block(self, block: _Block, segment: _ExpandableSegment) -> None:
        """Give the whole pages within a free block back to the device (unmap_block)."""
        begin, end = segment.pages_inside(block)
        if begin >= end:
            return
        pool = block.pool
        pool.remove(block)
        if before_size := begin - block.address:
            before = _Block(block.address, before_size, pool, segment)
            before.splice(block.prev, block)
            pool.insert(before)
        if after_size := block.address + block.size - end:
            after = _Block(end, after_size, pool, segment)
            after.splice(block, block.next)
            pool.insert(after)
        block.address = begin
        block.size = end - begin
        block.mapped = False
        self._merge_neighbours(block)
        self.reserved_bytes -= end - begin
        if block.is_split:
            pool.insert_unmapped(block)
        # Otherwise nothing of the segment is mapped any more, and it is dropped
        # (release_expandable_segment).

    def _merge_neighbours(self, block: _Block) -> None:
        for other in (block.prev, block.next):
            if other is not None:
                self._try_merge(block, other)


def _has_available_address_space(block: _Block, size: int) -> bool:
    found = 0
    run: _Block | None = block
    while found < size and run is not None and not run.allocated:
        found += run.size
        run = run.next
    return found >= size


def _segment_info(head: _Block) -> SegmentInfo:
    run = list(_mapped_run(head))
    used = [block for block in run if block.allocated]
    used_size = sum(block.size for block in used)
    return {
        "address": head.address,
        "total_size": sum(block.size for block in run),
        "allocated_size": used_size,
        "active_size": used_size,
        "requested_size": sum(block.requested_size for block in used),
        "stream": 0,
        "segment_type": "small" if head.pool.is_small else "large",
        "is_expandable": head.segment is not None,
        "blocks": [
            {
                "address": block.address,
                "size": block.size,
                "requested_size": block.requested_size,
                "state": "active_allocated" if block.allocated else "inactive",
            }
            for block in run
        ],
    }


def _mapped_run(head: _Block) -> Iterator[_Block]:
    block: _Block | None = head
    while block is not None and block.mapped:
        yield block
        block = block.next


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayStep:
    """The state after one allocation or free of a recorded trace, in bytes."""

    action: Literal["alloc", "free_completed"]
    recorded_address: int
    address: int  # of the simulated block; equal when the model took the same one
    recorded_reserved_bytes: int
    reserved_bytes: int  # simulated, as are the next
    allocated_bytes: int

    @property
    def agrees(self) -> bool:
        """Whether the model placed the block where the GPU did and reserved as much."""
        recorded = (self.recorded_address, self.recorded_reserved_bytes)
        return recorded == (self.address, self.reserved_bytes)


def replay(
    trace: Iterable[Mapping[str, Any]], settings: AllocatorSettings = DEFAULT_SETTINGS
) -> Iterator[ReplayStep]:
    """Feed a trace recorded on a GPU to the model, event by event, and compare.

    `trace` is one of snapshot["device_traces"] of torch.cuda.memory._snapshot, recorded from
    before the first allocation on, on one stream. New segments get the recorded addresses, so
    that ties break as they did there, and segments are released when the trace says so, for
    whatever reason; which block serves a request, how it is split and when a segment is
    needed is the model's own doing.

    Raises:
        ValueError: a second stream, or a free of something allocated before the recording.
    """
    allocator = _Replayer(replace(settings, per_process_memory_fraction=1.0))
    streams = set()
    for entry in trace:
        step = allocator.apply(entry["action"], entry.get("addr", 0), entry["size"])
        if step is not None:
            streams.add(entry.get("stream", 0))
            if len(streams) > 1:
                raise ValueError("the trace has more than one stream; the model has one")
            yield step


class _Replayer(CachingAllocator):
    """An allocator whose device does as a recorded trace says."""

    def __init__(self, settings: AllocatorSettings) -> None:
        super().__init__(settings=settings)
        self.recorded_reserved_bytes = 0
        self.new_addresses: deque[int] = deque()  # of segments the GPU got for the next alloc

    def _new_address(self, size: int) -> int:
        fallback = super()._new_address(size)
        # Behind all that a GPU hands out (48 bits), and so never equal to one of those.
        return self.new_addresses.popleft() if self.new_addresses else 2**48 + fallback

    def apply(self, action: str, address: int, size: int) -> ReplayStep | None:
        """Do what one entry of the trace says; a step where reserved bytes can be compared."""
        if action in ("segment_alloc", "segment_map"):
            self.recorded_reserved_bytes += size
            self.new_addresses.append(address)
        elif action in ("segment_free", "segment_unmap"):
            self.recorded_reserved_bytes -= size
            self.release_at(address)
        elif action == "alloc":
            self.malloc(address, size)
            self.new_addresses.clear()
            return self.step("alloc", address, self.place(address))
        elif action == "free_completed":
            place = self.place(address)
            self.free(address)
            return self.step("free_completed", address, place)
        return None

    def place(self, recorded_address: int) -> int:
        """Where the model put what the GPU put at `recorded_address`."""
        block = self._blocks.get(recorded_address)
        if block is None:
            raise ValueError(f"the trace frees {recorded_address:#x}, allocated before it began")
        return block.address

    def step(
        self, action: Literal["alloc", "free_completed"], recorded_address: int, address: int
    ) -> ReplayStep:
        return ReplayStep(
            action=action,
            recorded_address=recorded_address,
            address=address,
            recorded_reserved_bytes=self.recorded_reserved_bytes,
            reserved_bytes=self.reserved_bytes,
            allocated_bytes=self.allocated_bytes,
        )

    def release_at(self, address: int) -> None:
        """Release the free block that holds `address`, if the model has such a one."""
        for pool in (self._large, self._small):
            for size, start, block in pool.blocks:
                if start <= address < start + size:
                    if block.segment is not None:
                        self._unmap_block(block, block.segment)
                    elif not block.is_split:
                        self._release_block(block)
                    return
