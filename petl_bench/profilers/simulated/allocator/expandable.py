"""Expandable segments: addresses reserved for the whole device, memory mapped where it is needed.

Every function mirrors one of DeviceCachingAllocator's (in parentheses).
"""

from petl_bench.profilers.simulated.allocator.blocks import Block, ExpandableSegment
from petl_bench.profilers.simulated.allocator.device import Device
from petl_bench.profilers.simulated.allocator.pools import Pool
from petl_bench.profilers.simulated.allocator.sizes import up_to


def try_allocate(device: Device, pool: Pool, size: int) -> Block | None:
    """A free block of `size` or more made by mapping pages (try_allocate_expandable_block).

    Pages mapped before the device ran full stay as free blocks.
    """
    block = _find(device, pool, size)
    if not block.mapped and not _map(device, block, min(block.size, size)):
        return None
    while block.size < size:
        behind = block.next
        assert behind is not None
        if not _map(device, behind, min(size - block.size, behind.size)):
            return None
        block = behind
    pool.remove(block)
    return block


def unmap(device: Device, block: Block, segment: ExpandableSegment) -> None:
    """Give the whole pages within a free block back to the device (unmap_block)."""
    begin, end = segment.pages_inside(block)
    if begin >= end:
        return
    pool = block.pool
    pool.remove(block)
    if before_size := begin - block.address:
        before = Block(block.address, before_size, pool, segment)
        before.splice(block.prev, block)
        pool.insert(before)
    if after_size := block.address + block.size - end:
        after = Block(end, after_size, pool, segment)
        after.splice(block, block.next)
        pool.insert(after)
    block.address = begin
    block.size = end - begin
    block.mapped = False
    block.merge_neighbours()
    device.unmap(end - begin)
    if block.is_split:
        pool.insert_unmapped(block)
    # Otherwise nothing of the segment is mapped any more, and it is dropped
    # (release_expandable_segment).


def _find(device: Device, pool: Pool, size: int) -> Block:
    """The lowest run of free and unmapped blocks with `size` bytes (find_expandable_block)."""
    for _, unmapped in pool.unmapped:
        before = unmapped.prev
        start = before if before is not None and not before.allocated else unmapped
        if _has_available_address_space(start, size):
            return start
    # Addresses for 1 1/8 of the device, in whole pages (struct ExpandableSegment).
    span = up_to(pool.page_size, device.total_bytes + device.total_bytes // 8)
    segment = ExpandableSegment(device.new_address(span), pool.page_size)
    block = Block(segment.address, span, pool, segment)
    block.mapped = False
    pool.insert_unmapped(block)
    return block


def _has_available_address_space(block: Block, size: int) -> bool:
    found = 0
    run: Block | None = block
    while found < size and run is not None and not run.allocated:
        found += run.size
        run = run.next
    return found >= size


def _map(device: Device, block: Block, size: int) -> bool:
    """Back the first `size` bytes of an unmapped block by whole pages (map_block)."""
    segment = block.segment
    assert segment is not None
    pool = block.pool
    mapped = up_to(segment.page_size, size)
    if not device.map(mapped):
        return False
    pool.remove_unmapped(block)
    block.mapped = True
    if mapped < block.size:
        rest = Block(block.address + mapped, block.size - mapped, pool, segment)
        rest.mapped = False
        rest.splice(block, block.next)
        pool.insert_unmapped(rest)
        block.size = mapped
    block.merge_neighbours()
    pool.insert(block)
    return True
