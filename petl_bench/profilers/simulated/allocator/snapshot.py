"""Segments and their blocks, in the form of torch.cuda.memory_snapshot."""

from collections.abc import Iterator
from typing import Literal, TypedDict

from petl_bench.profilers.simulated.allocator.blocks import Block
from petl_bench.profilers.simulated.allocator.caching import CachingAllocator


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


def snapshot(allocator: CachingAllocator) -> list[SegmentInfo]:
    """Segments and their blocks by address."""
    free = [entry[-1] for pool in (allocator._small, allocator._large) for entry in pool.blocks]
    used = [block for block in allocator._blocks.values() if block is not None]
    heads = [block for block in free + used if block.prev is None or not block.prev.mapped]
    return [_segment_info(head) for head in sorted(heads, key=lambda block: block.address)]


def _segment_info(head: Block) -> SegmentInfo:
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


def _mapped_run(head: Block) -> Iterator[Block]:
    block: Block | None = head
    while block is not None and block.mapped:
        yield block
        block = block.next
