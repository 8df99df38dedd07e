"""PyTorch's CUDA caching allocator for one device, to the byte, without a GPU.

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
6. A block serves the stream that it was first allocated for, and no other (get_free_block).

Followed: torch 2.11 to 2.13. Left out: record_stream (a free is complete at once, so active bytes
equal allocated bytes), private pools of CUDA graphs and MemPool, and backend:cudaMallocAsync.

Addresses are a choice of this model: the device hands them out in rising order, each once.
They decide only which of two free blocks of equal size is taken first.
"""

from bisect import bisect_left, insort
from math import inf
from typing import Final

from petl_bench import errors
from petl_bench.profilers.simulated.allocator_settings import (
    DEFAULT_SETTINGS,
    K_MIN_LARGE_ALLOC,
    K_ROUND_UP_POWER_OF_TWO_INTERVALS,
    AllocatorSettings,
)
from petl_bench.units import MIB, format_bytes

# c10/core/AllocatorConfig.h
K_MIN_BLOCK_SIZE: Final = 512  # kMinBlockSize
K_SMALL_SIZE: Final = 1 * MIB  # kSmallSize: the largest request of the small pool
K_SMALL_BUFFER: Final = 2 * MIB  # kSmallBuffer: a segment of the small pool
K_ROUND_LARGE: Final = 2 * MIB  # kRoundLarge: the grain of a large request's segment

_UNBOUNDED_BYTES: Final = 2**60
"""Memory of a device that is never full."""


class OutOfMemoryError(errors.OutOfMemoryError):
    """A request that does not fit even after every cached segment was released."""

    def __init__(
        self, requested_bytes: int, allocated_bytes: int, reserved_bytes: int, capacity_bytes: int
    ) -> None:
        super().__init__(
            requested_bytes,  # as asked, before rounding
            allocated_bytes,
            reserved_bytes,
            capacity_bytes,
            requested_bytes=requested_bytes,
        )
        self.allocated_bytes = allocated_bytes
        self.reserved_bytes = reserved_bytes
        self.capacity_bytes = capacity_bytes

    def __str__(self) -> str:
        return (
            f"out of memory: {format_bytes(self.requested_bytes or 0)} requested with "
            f"{format_bytes(self.allocated_bytes)} allocated and "
            f"{format_bytes(self.reserved_bytes)} reserved of {format_bytes(self.capacity_bytes)}"
        )


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
    """The allocator of one device of `capacity_bytes` (None: never full).

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
        self._pools = {0: (self._small, self._large)}  # by stream; 0 is the default one
        self._blocks: dict[int, _Block | None] = {}  # by key; None for an empty storage
        self._expandable = settings.expandable_segments
        self._rounds_up = any(number > 1 for number in settings.roundup_power2_divisions)
        self._max_split_size = _or_inf(settings.max_split_size_bytes)
        self._max_non_split_rounding = (
            settings.max_non_split_rounding_bytes or settings.large_segment_size_bytes
        )
        self._total = _UNBOUNDED_BYTES if capacity_bytes is None else capacity_bytes
        self._restricted = settings.per_process_memory_fraction < 1.0
        if self._restricted and capacity_bytes is None:
            raise errors.UsageError("per_process_memory_fraction below 1.0 needs a capacity")
        self._allowed = settings.allowed_bytes(self._total)
        self._collects = self._restricted and settings.garbage_collection_threshold > 0
        self._unused_address = K_ROUND_LARGE  # 0 would be the null pointer

    @property
    def active_bytes(self) -> int:
        """Bytes of blocks in use: without record_stream, those allocated."""
        return self.allocated_bytes

    @property
    def inactive_split_bytes(self) -> int:
        """Bytes of free blocks that share their segment, expandable segments left out."""
        return sum(
            size
            for pools in self._pools.values()
            for pool in pools
            for size, _, block in pool.blocks
            if block.is_split and block.segment is None
        )

    def layout(self) -> tuple[object, ...]:
        """Where everything lies: of two equal ones, the same requests make the same again."""
        used = {key: block and (block.address, block.size) for key, block in self._blocks.items()}
        pools = [
            (
                [(size, address, pool.age(block)) for size, address, block in pool.blocks],
                [(address, block.size) for address, block in pool.unmapped],
            )
            for pair in self._pools.values()
            for pool in pair
        ]
        return used, pools

    def malloc(self, key: int, size: int, stream: int = 0) -> int:
        """Bytes charged to `allocated` for a storage of `size` bytes, known as `key` from here.

        It is taken from what `stream` has in the cache, or fresh from the device.
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
        small, large = self._pools.get(stream) or self._add_stream(stream)
        pool = small if rounded <= K_SMALL_SIZE else large
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

    def rename(self, key: int, new: int) -> None:
        """Call what is allocated as `key` by a key that is free."""
        self._blocks[new] = self._blocks.pop(key)

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
        for small, large in self._pools.values():
            for _, _, block in (*large.blocks, *small.blocks):
                if block.segment is not None:
                    self._unmap_block(block, block.segment)
                elif not block.is_split:
                    self._release_block(block)

    def _add_stream(self, stream: int) -> tuple[_Pool, _Pool]:
        small, large = (_Pool(is_small=small, settings=self.settings) for small in (True, False))
        self._pools[stream] = small, large
        return small, large

    def _round_size(self, size: int) -> int:
        """`size` rounded up to 512 bytes or to a division of a power of 2 (round_size)."""
        if self._rounds_up and size >= K_MIN_BLOCK_SIZE:
            # The first interval ends below 2 MiB, a number of 21 bits.
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
        larges = [large for _, large in self._pools.values()]
        whole = [b for large in larges for _, _, b in large.blocks if not b.is_split]
        while target > 0 and whole:
            mean_age = sum(block.pool.age(block) for block in whole) / len(whole)
            old = [b for b in whole if b.segment is None and b.pool.age(b) >= mean_age]
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
        # Addresses for 1 1/8 of the device, in whole pages (struct ExpandableSegment).
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
