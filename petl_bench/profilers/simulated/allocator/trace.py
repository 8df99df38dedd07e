"""The model of the allocator beside a trace recorded of PyTorch's on a GPU."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from petl_bench.profilers.simulated.allocator.caching import CachingAllocator
from petl_bench.profilers.simulated.allocator.device import Device
from petl_bench.profilers.simulated.allocator.settings import DEFAULT_SETTINGS, AllocatorSettings


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


class _RecordedDevice(Device):
    """A device that puts segments where a GPU put them."""

    __slots__ = ("new_addresses",)

    def __init__(self) -> None:
        super().__init__()
        self.new_addresses: deque[int] = deque()  # of segments the GPU got for the next alloc

    def new_address(self, size: int) -> int:
        fallback = super().new_address(size)
        # Behind all that a GPU hands out (48 bits), and so never equal to one of those.
        return self.new_addresses.popleft() if self.new_addresses else 2**48 + fallback


class _Replayer(CachingAllocator):
    """An allocator whose device does as a recorded trace says."""

    _device: _RecordedDevice

    def __init__(self, settings: AllocatorSettings) -> None:
        super().__init__(settings=settings)
        self._device = _RecordedDevice()
        self.recorded_reserved_bytes = 0

    def apply(self, action: str, address: int, size: int) -> ReplayStep | None:
        """Do what one entry of the trace says; a step where reserved bytes can be compared."""
        if action in ("segment_alloc", "segment_map"):
            self.recorded_reserved_bytes += size
            self._device.new_addresses.append(address)
        elif action in ("segment_free", "segment_unmap"):
            self.recorded_reserved_bytes -= size
            self.release_at(address)
        elif action == "alloc":
            self.malloc(address, size)
            self._device.new_addresses.clear()
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
                    self._release(block)
                    return
