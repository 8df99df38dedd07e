"""The free blocks of a pool: which one serves a request, and what is split off it."""

from bisect import bisect_left, insort
from math import inf

from petl_bench.profilers.simulated.allocator.blocks import Block
from petl_bench.profilers.simulated.allocator.settings import AllocatorSettings
from petl_bench.profilers.simulated.allocator.sizes import (
    K_MIN_BLOCK_SIZE,
    K_SMALL_BUFFER,
    K_SMALL_SIZE,
)


class Pool:
    """Free blocks of one pool (struct BlockPool).

    `blocks` is sorted by size, then address (BlockComparatorSize), `unmapped` by address
    (BlockComparatorAddress). No two entries agree so far that blocks would be compared.
    """

    __slots__ = (
        "_counts_calls",
        "_expandable",
        "_max_non_split_rounding",
        "_smallest_remainder",
        "_split_below",
        "blocks",
        "get_free_blocks_call_count",
        "is_small",
        "max_split_size",
        "page_size",
        "unmapped",
    )

    def __init__(self, *, is_small: bool, settings: AllocatorSettings) -> None:
        self.blocks: list[tuple[int, int, Block]] = []
        self.unmapped: list[tuple[int, Block]] = []
        self.is_small = is_small
        self.page_size = K_SMALL_BUFFER if is_small else settings.large_segment_size_bytes
        self.get_free_blocks_call_count = 0
        self.max_split_size = settings.max_split_size_bytes or inf
        self._max_non_split_rounding = (
            settings.max_non_split_rounding_bytes or settings.large_segment_size_bytes
        )
        self._expandable = settings.expandable_segments
        self._counts_calls = settings.collects_garbage
        # should_split: the large pool without expandable segments leaves 1 MiB or less on a
        # block (all sizes are multiples of 512), and all on a request of max_split_size or more.
        fine = is_small or settings.expandable_segments
        self._smallest_remainder = K_MIN_BLOCK_SIZE if fine else K_SMALL_SIZE + K_MIN_BLOCK_SIZE
        self._split_below = inf if fine else self.max_split_size

    def insert(self, block: Block) -> None:
        """Take in a free block."""
        block.gc_count_base = self.get_free_blocks_call_count
        insort(self.blocks, (block.size, block.address, block))

    def remove(self, block: Block) -> None:
        """Take out a free block."""
        del self.blocks[bisect_left(self.blocks, (block.size, block.address))]

    def insert_unmapped(self, block: Block) -> None:
        """Take in addresses without memory."""
        insort(self.unmapped, (block.address, block))

    def remove_unmapped(self, block: Block) -> None:
        """Take them out."""
        del self.unmapped[bisect_left(self.unmapped, (block.address,))]

    def take_best_fit(self, size: int) -> Block | None:
        """The best cached block for `size`, taken out (get_free_block)."""
        if self._counts_calls:
            self.get_free_blocks_call_count += 1
        blocks = self.blocks
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
        if found >= self.max_split_size and (
            size < self.max_split_size or found >= size + self._max_non_split_rounding
        ):
            return None
        return blocks.pop(index)[2]

    def trimmed(self, block: Block, size: int) -> Block:
        """The first `size` bytes of `block`, or all of it where the rest is not worth splitting.

        The rest goes to the pool (should_split, alloc_found_block).
        """
        if block.size - size < self._smallest_remainder or size >= self._split_below:
            return block
        front = Block(block.address, size, self, block.segment)
        front.splice(block.prev, block)
        block.address += size
        block.size -= size
        self.insert(block)
        return front

    def age(self, block: Block) -> int:
        """Searches of this pool since `block` was freed (Block::gc_count)."""
        return self.get_free_blocks_call_count - block.gc_count_base
