"""How large requests, blocks and segments are (c10/core/AllocatorConfig.h)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from petl_bench.units import MIB

K_MIN_BLOCK_SIZE: Final = 512  # kMinBlockSize
K_SMALL_SIZE: Final = 1 * MIB  # kSmallSize: the largest request of the small pool
K_SMALL_BUFFER: Final = 2 * MIB  # kSmallBuffer: a segment of the small pool
K_MIN_LARGE_ALLOC: Final = 10 * MIB  # kMinLargeAlloc: from here a request gets its own segment
K_LARGE_SEGMENT_SIZE: Final = 20 * MIB  # large_segment_size_, which was kLargeBuffer once
K_ROUND_LARGE: Final = 2 * MIB  # kRoundLarge: the grain of a large request's segment
K_ROUND_UP_POWER_OF_TWO_INTERVALS: Final = 16  # from 1 MiB, each twice the one before


def up_to(grain: int, size: int) -> int:
    """`size` rounded up to whole grains."""
    return -(-size // grain) * grain


def rounding(divisions: Sequence[int]) -> Callable[[int], int]:
    """How requests are rounded up, by the roundup_power2_divisions of each interval (round_size).

    A function of its own where nothing is divided, since every request passes it.
    """
    if all(number <= 1 for number in divisions):
        return _to_min_blocks
    return partial(_to_divisions, divisions)


def _to_min_blocks(size: int) -> int:
    return (size + K_MIN_BLOCK_SIZE - 1) & -K_MIN_BLOCK_SIZE


def _to_divisions(divisions: Sequence[int], size: int) -> int:
    """`size` rounded up to a division of the power of 2 below it."""
    # The first interval ends below 2 MiB, a number of 21 bits.
    interval = min(max(size.bit_length() - 21, 0), K_ROUND_UP_POWER_OF_TWO_INTERVALS - 1)
    number = divisions[interval]
    if number > 1 and size > K_MIN_BLOCK_SIZE * number:
        return up_to((1 << (size.bit_length() - 1)) // number, size)
    return _to_min_blocks(size)


def segment_size(size: int, large_segment_size: int) -> int:
    """Bytes of the segment for a rounded request (get_allocation_size)."""
    if size <= K_SMALL_SIZE:
        return K_SMALL_BUFFER
    if size < K_MIN_LARGE_ALLOC:
        return large_segment_size
    return up_to(K_ROUND_LARGE, size)
