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

caching     the allocator: requests, frees, and what is released when memory runs out
pools       which free block serves a request, and what is split off it
blocks      runs of bytes, and how they merge
expandable  segments that grow page by page
device      what the driver gives: memory and addresses
sizes       the constants, and how requests are rounded
settings    the options, as PYTORCH_ALLOC_CONF writes them
snapshot    all blocks in the form of torch.cuda.memory_snapshot
trace       proof: a recorded trace replayed
"""

from petl_bench.profilers.simulated.allocator.caching import CachingAllocator, OutOfMemoryError
from petl_bench.profilers.simulated.allocator.settings import DEFAULT_SETTINGS, AllocatorSettings

__all__ = ["DEFAULT_SETTINGS", "AllocatorSettings", "CachingAllocator", "OutOfMemoryError"]
