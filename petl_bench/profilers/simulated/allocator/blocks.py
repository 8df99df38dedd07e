"""Blocks and how they merge; the ranges of addresses that expandable segments are."""

from typing import TYPE_CHECKING

from petl_bench.profilers.simulated.allocator.sizes import up_to

if TYPE_CHECKING:
    from petl_bench.profilers.simulated.allocator.pools import Pool


class ExpandableSegment:
    """A range of addresses that is backed by memory page by page (struct ExpandableSegment)."""

    __slots__ = ("address", "page_size")

    def __init__(self, address: int, page_size: int) -> None:
        self.address = address
        self.page_size = page_size

    def pages_inside(self, block: "Block") -> tuple[int, int]:
        """Addresses of the first and past the last page that `block` fills (unmap)."""
        start = block.address - self.address
        end = (start + block.size) // self.page_size * self.page_size
        return self.address + up_to(self.page_size, start), self.address + end


class Block:
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
        self, address: int, size: int, pool: "Pool", segment: ExpandableSegment | None
    ) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.segment = segment  # None in memory from cudaMalloc
        self.requested_size = 0
        self.allocated = False
        self.mapped = True
        self.gc_count_base = 0
        self.prev: Block | None = None
        self.next: Block | None = None

    def splice(self, before: "Block | None", after: "Block | None") -> None:
        """Put this block between two neighbours."""
        self.prev = before
        self.next = after
        if before is not None:
            before.next = self
        if after is not None:
            after.prev = self

    def merge_neighbours(self) -> None:
        """Take in the neighbours that are free too, first the one before (try_merge_blocks)."""
        if self.prev is not None:
            self._try_merge(self.prev)
        if self.next is not None:
            self._try_merge(self.next)

    def _try_merge(self, other: "Block") -> None:
        if other.allocated or self.mapped is not other.mapped:
            return
        if other.mapped:
            self.pool.remove(other)
        else:
            self.pool.remove_unmapped(other)
        if self.prev is other:
            self.address = other.address
            self.splice(other.prev, self.next)
        else:
            self.splice(self.prev, other.next)
        self.size += other.size

    @property
    def is_split(self) -> bool:
        """Whether it shares its segment with others."""
        return self.prev is not None or self.next is not None

    @property
    def expandable_size(self) -> int:
        """Bytes it can grow to: its own and those of the unmapped block behind it."""
        behind = self.next
        return self.size + (behind.size if behind is not None and not behind.mapped else 0)
