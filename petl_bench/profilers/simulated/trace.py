"""The model of the allocator beside what was recorded of PyTorch's on a GPU: traces, snapshots."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from petl_bench.profilers.simulated.allocator import CachingAllocator, _Block
from petl_bench.profilers.simulated.allocator_settings import DEFAULT_SETTINGS, AllocatorSettings


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


def snapshot(allocator: CachingAllocator) -> list[SegmentInfo]:
    """Segments and their blocks by address, in the form of torch.cuda.memory_snapshot."""
    free = [entry[-1] for pool in (allocator._small, allocator._large) for entry in pool.blocks]
    used = [block for block in allocator._blocks.values() if block is not None]
    heads = [block for block in free + used if block.prev is None or not block.prev.mapped]
    return [_segment_info(head) for head in sorted(heads, key=lambda block: block.address)]


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
