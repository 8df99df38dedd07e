"""The allocator itself: requests served from the cache or by the device, and what goes back to it.

Names in parentheses are functions of DeviceCachingAllocator.
"""

from bisect import bisect_left

from petl_bench import errors
from petl_bench.profilers.simulated.allocator import expandable
from petl_bench.profilers.simulated.allocator.blocks import Block
from petl_bench.profilers.simulated.allocator.device import Device
from petl_bench.profilers.simulated.allocator.pools import Pool
from petl_bench.profilers.simulated.allocator.settings import DEFAULT_SETTINGS, AllocatorSettings
from petl_bench.profilers.simulated.allocator.sizes import K_SMALL_SIZE, rounding, segment_size
from petl_bench.units import format_bytes


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
        self._device = Device(capacity_bytes)
        self._small = Pool(is_small=True, settings=settings)
        self._large = Pool(is_small=False, settings=settings)
        self._pools = {0: (self._small, self._large)}  # by stream; 0 is the default one
        self._blocks: dict[int, Block | None] = {}  # by key; None for an empty storage
        self._round_size = rounding(settings.roundup_power2_divisions)
        self._restricted = settings.per_process_memory_fraction < 1.0
        if self._restricted and capacity_bytes is None:
            raise errors.UsageError("per_process_memory_fraction below 1.0 needs a capacity")
        self._allowed = settings.allowed_bytes(self._device.total_bytes)

    @property
    def reserved_bytes(self) -> int:
        """Bytes of segments, or of pages mapped."""
        return self._device.reserved_bytes

    @property
    def segment_count(self) -> int:
        """Segments of cudaMalloc."""
        return self._device.segment_count

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
        block = pool.take_best_fit(rounded) or self._get_new_block(pool, rounded)
        if block is None:
            raise OutOfMemoryError(size, self.allocated_bytes, self.reserved_bytes, self._allowed)
        block = pool.trimmed(block, rounded)
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
        block.merge_neighbours()
        block.pool.insert(block)

    def empty_cache(self) -> None:
        """Give back to the device all it can do without (release_cached_blocks)."""
        for small, large in self._pools.values():
            for _, _, block in (*large.blocks, *small.blocks):
                self._release(block)

    def _add_stream(self, stream: int) -> tuple[Pool, Pool]:
        small, large = (Pool(is_small=small, settings=self.settings) for small in (True, False))
        self._pools[stream] = small, large
        return small, large

    def _get_new_block(self, pool: Pool, size: int) -> Block | None:
        """A block from the device, if need be after releasing cached segments (malloc)."""
        if self.settings.collects_garbage:
            self._garbage_collect()
        block = self._alloc_block(pool, size)
        if block is None and self._release_available(pool, size):
            block = self._alloc_block(pool, size)
        if block is None:
            self.empty_cache()
            block = self._alloc_block(pool, size)
        return block

    def _alloc_block(self, pool: Pool, size: int) -> Block | None:
        """A fresh segment for `size`, None when there is no room (alloc_block)."""
        alloc_size = segment_size(size, self.settings.large_segment_size_bytes)
        if self._restricted and self.reserved_bytes + alloc_size > self._allowed:
            return None
        if self.settings.expandable_segments:
            return expandable.try_allocate(self._device, pool, size)
        address = self._device.malloc(alloc_size)
        return None if address is None else Block(address, alloc_size, pool, None)

    def _release(self, block: Block) -> None:
        """Give back what the device can take of a free block."""
        if block.segment is not None:
            expandable.unmap(self._device, block, block.segment)
        elif not block.is_split:
            self._release_block(block)

    def _release_block(self, block: Block) -> None:
        """Give a whole free segment back to the device (release_block)."""
        block.pool.remove(block)
        self._device.free(block.size)

    def _release_available(self, pool: Pool, size: int) -> bool:
        """Release oversize blocks, no more than `size` needs (release_available_cached_blocks).

        True when at least that much was released.
        """
        max_split_size = self.settings.max_split_size_bytes
        if max_split_size is None or self.settings.expandable_segments:
            return False
        wanted = max(size, max_split_size)
        index = bisect_left(pool.blocks, (wanted,))
        if index < len(pool.blocks):
            self._release_block(pool.blocks[index][2])
            return True
        released = 0
        while released < wanted and pool.blocks and pool.blocks[-1][0] >= max_split_size:
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
