"""What the CUDA driver does for the allocator: memory by segment or by page, and addresses."""

from petl_bench.profilers.simulated.allocator.sizes import K_ROUND_LARGE, up_to

_UNBOUNDED_BYTES = 2**60
"""Memory of a device that is never full."""


class Device:
    """A GPU with `total_bytes` for one process (None: it is never full).

    Addresses are a choice of this model: they rise, and each is handed out once. They decide only
    which of two free blocks of equal size is taken first.
    """

    __slots__ = ("_unused_address", "reserved_bytes", "segment_count", "total_bytes")

    def __init__(self, total_bytes: int | None = None) -> None:
        self.total_bytes = _UNBOUNDED_BYTES if total_bytes is None else total_bytes
        self.reserved_bytes = 0
        self.segment_count = 0  # "segment.all.current": calls of cudaMalloc not yet freed
        self._unused_address = K_ROUND_LARGE  # 0 would be the null pointer

    def malloc(self, size: int) -> int | None:
        """The address of a new segment, None when there is no room (cudaMalloc)."""
        if not self.map(size):
            return None
        self.segment_count += 1
        return self.new_address(size)

    def free(self, size: int) -> None:
        """Take a segment back (cudaFree)."""
        self.unmap(size)
        self.segment_count -= 1

    def map(self, size: int) -> bool:
        """Back `size` bytes of addresses by memory, if there is room (cuMemCreate, cuMemMap)."""
        if self.reserved_bytes + size > self.total_bytes:
            return False
        self.reserved_bytes += size
        return True

    def unmap(self, size: int) -> None:
        """Take the memory behind `size` bytes of addresses back (cuMemUnmap)."""
        self.reserved_bytes -= size

    def new_address(self, size: int) -> int:
        """Where `size` bytes lie that were nowhere before (cudaMalloc, cuMemAddressReserve)."""
        address = self._unused_address
        self._unused_address += up_to(K_ROUND_LARGE, size)
        return address
