"""Temporary storage of cub, the library of sorts and scans in CUDA's toolkit.

Sources, in CCCL 3.0 (CUDA 13.0): cub/device/dispatch/dispatch_radix_sort.cuh, dispatch_scan.cuh
and dispatch_unique_by_key.cuh for what is allocated; tuning/tuning_*.cuh beside them for the
elements of a tile, which differ from card to card; cub/util_temporary_storage.cuh for alignment.

Keys, values and elements have 4 or 8 bytes. Tiles were checked against the compiled policies of
each architecture; a sum by PyTorch's own functors takes the policy that none was tuned for.
"""

from petl_bench.cards import Card
from petl_bench.profilers.simulated.kernels.recipe import ceil_div, round_up

_ALIGNMENT = 256  # of each piece; the whole may be off by as much, less one
_DIGITS = 1 << 8
_WIDE = 8  # bytes, as of int64
_PADDING = 32  # tiles before the first, so that a look-back need not check


def radix_sort_bytes(
    card: Card, elements: int, *, key_bytes: int, value_bytes: int, key_bits: int
) -> int:
    """Of an out-of-place sort of pairs by the low `key_bits` bits of their keys."""
    wide = max(key_bytes, value_bytes) == _WIDE
    if elements <= 256 * (9 if wide else 19):
        return 1  # one thread block sorts alone
    passes = ceil_div(key_bits, 8)
    twice = passes > 1  # from there on in turns between the result and a second buffer
    blocks = ceil_div(elements, _sort_tile(card, key_bytes, value_bytes))
    return _aligned(
        passes * _DIGITS * 8,  # histograms
        blocks * _DIGITS * 4,  # look-back
        elements * key_bytes * twice,
        elements * value_bytes * twice,
        passes * 4,  # counters
    )


def _sort_tile(card: Card, key_bytes: int, value_bytes: int) -> int:
    """Elements that a thread block sorts in one pass: threads by elements a thread."""
    if card.compute_capability >= (9, 0):
        if value_bytes == _WIDE:
            return 384 * (12 if key_bytes == _WIDE else 14)
        return 384 * (15 if key_bytes == _WIDE else 17)
    if card.compute_capability >= (8, 0):
        if key_bytes == _WIDE:
            return 384 * 10
        return 384 * (8 if value_bytes == _WIDE else 17)
    return 256 * (11 if max(key_bytes, value_bytes) == _WIDE else 46)


def merge_sort_bytes(elements: int, *, key_bytes: int, value_bytes: int) -> int:
    """Of a sort of pairs by a comparison of thrust's user (dispatch_merge_sort.cuh).

    Partitions of tiles, and second buffers; a thread has 17 words of keys (Policy600).
    """
    tile = 256 * (17 if key_bytes == 4 else 8)  # noqa: PLR2004 - bytes
    partitions = (ceil_div(elements, tile) + 1) * 8
    return _aligned(partitions, elements * key_bytes, elements * value_bytes)


def scan_bytes(elements: int, *, element_bytes: int) -> int:
    """Of a running sum."""
    wide = element_bytes == _WIDE
    return _look_back(ceil_div(elements, 896 if wide else 1920), 16 if wide else 8)


def unique_by_key_bytes(card: Card, elements: int, *, key_bytes: int) -> int:
    """Of the selection of the first of each run of equal keys; their places are values of 4."""
    wide = key_bytes == _WIDE
    if card.compute_capability >= (9, 0):
        tile = 4480 if wide else 7168
    elif card.compute_capability == (8, 0):
        tile = 1792 if wide else 2816
    else:
        tile = 320 if wide else 704
    return _look_back(ceil_div(elements, tile), 16)


def _look_back(tiles: int, descriptor_bytes: int) -> int:
    """Descriptors of all tiles; aligned when they are counted, and again with the rest."""
    return _aligned(_aligned((tiles + _PADDING) * descriptor_bytes))


def _aligned(*pieces: int) -> int:
    return sum(round_up(piece, _ALIGNMENT) for piece in pieces) + _ALIGNMENT - 1
