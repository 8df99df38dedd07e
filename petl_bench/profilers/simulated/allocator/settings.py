"""Options of the caching allocator, as PYTORCH_ALLOC_CONF writes them.

Sources: c10/core/AllocatorConfig.h and .cpp, c10/cuda/CUDAAllocatorConfig.h, torch 2.13.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from petl_bench.errors import UsageError
from petl_bench.profilers.simulated.allocator.sizes import (
    K_LARGE_SEGMENT_SIZE,
    K_MIN_LARGE_ALLOC,
    K_ROUND_UP_POWER_OF_TWO_INTERVALS,
)
from petl_bench.units import MIB

_WITHOUT_EFFECT: Final = frozenset(
    {
        "graph_capture_record_stream_reuse",
        "pinned_free_catch_all",
        "pinned_max_cached_size_mb",
        "pinned_max_round_threshold_mb",
        "pinned_num_register_threads",
        "pinned_reserve_segment_size_mb",
        "pinned_use_background_threads",
        "pinned_use_cuda_host_register",
        "release_lock_on_cudamalloc",
    }
)
"""Options of PyTorch that move host memory, locks or graph captures, not the bytes counted here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AllocatorSettings:
    """PYTORCH_ALLOC_CONF (formerly PYTORCH_CUDA_ALLOC_CONF), as far as it moves device memory."""

    expandable_segments: bool = False
    large_segment_size_bytes: int = K_LARGE_SEGMENT_SIZE
    max_split_size_bytes: int | None = None  # None: blocks of any size are split
    max_non_split_rounding_bytes: int | None = None  # None: large_segment_size_bytes
    roundup_power2_divisions: tuple[int, ...] = (0,) * K_ROUND_UP_POWER_OF_TWO_INTERVALS
    garbage_collection_threshold: float = 0.0  # 0.0: never; acts only below a memory fraction of 1
    per_process_memory_fraction: float = 1.0

    def __post_init__(self) -> None:
        segment = self.large_segment_size_bytes
        if segment <= K_MIN_LARGE_ALLOC:
            raise UsageError("large_segment_size_mb must be above 10")
        for name, size in (
            ("max_split_size_mb", self.max_split_size_bytes),
            ("max_non_split_rounding_mb", self.max_non_split_rounding_bytes),
        ):
            if size is not None and size < segment:
                raise UsageError(f"{name} must be {segment // MIB} (the segment size) or more")
        if len(self.roundup_power2_divisions) != K_ROUND_UP_POWER_OF_TWO_INTERVALS:
            raise UsageError("roundup_power2_divisions takes 16 numbers, from 1 MiB to 32 GiB")
        if not all(_is_power_of_2(number) for number in self.roundup_power2_divisions if number):
            raise UsageError("roundup_power2_divisions takes powers of 2, or 0 for none")
        if not 0.0 <= self.garbage_collection_threshold < 1.0:
            raise UsageError("garbage_collection_threshold must lie between 0.0 and 1.0")
        if not 0.0 <= self.per_process_memory_fraction <= 1.0:
            raise UsageError("per_process_memory_fraction must lie between 0.0 and 1.0")

    def allowed_bytes(self, total_bytes: int) -> int:
        """What a process may reserve of a device with `total_bytes` (setMemoryFraction)."""
        fraction = self.per_process_memory_fraction
        return total_bytes if fraction == 1.0 else int(fraction * total_bytes)

    @property
    def collects_garbage(self) -> bool:
        """Whether old segments are released before the memory that is allowed is full."""
        return self.per_process_memory_fraction < 1.0 and self.garbage_collection_threshold > 0

    @classmethod
    def parse(cls, text: str) -> "AllocatorSettings":
        """Settings written as in PYTORCH_ALLOC_CONF (AcceleratorAllocatorConfig::parseArgs).

        >>> AllocatorSettings.parse("max_split_size_mb:128").max_split_size_bytes == 128 * MIB
        True

        Raises:
            UsageError: an unknown option, a value it does not take, or one not modelled here.
        """
        fields: dict[str, Any] = {}
        for name, value in _options(text):
            if name in _PARSERS:
                field, parse = _PARSERS[name]
                fields[field] = parse(name, value)
            elif name in _CHOICES:
                _parse_choice(name, value, _CHOICES[name])
            elif name not in _WITHOUT_EFFECT:
                known = ", ".join(sorted({*_PARSERS, *_CHOICES, *_WITHOUT_EFFECT}))
                raise UsageError(f"{name!r} is no option of the allocator; choose from {known}")
        return cls(**fields)


def _options(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of name and value of `text`; a value in brackets stays whole."""
    packed = "".join(text.split())
    for part in re.split(r",(?![^\[]*\])", packed) if packed else ():
        name, colon, value = part.partition(":")
        if not (name and colon and value):
            raise UsageError(f"{part!r} is not an allocator option; write name:value,name:value")
        yield name, value


def _is_power_of_2(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _parse_choice(name: str, value: str, choices: Mapping[str, bool]) -> bool:
    if value not in choices:
        raise UsageError(f"{name} takes {' or '.join(choices)} here, not {value!r}")
    return choices[value]


def _parse_bool(name: str, value: str) -> bool:
    return _parse_choice(name, value, {"True": True, "False": False})


def _parse_count(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise UsageError(f"{name} takes whole numbers, not {value!r}")
    return int(value)


def _parse_mib(name: str, value: str) -> int:
    return _parse_count(name, value) * MIB


def _parse_fraction(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"{name} takes a number from 0.0 to 1.0, not {value!r}") from None


def _parse_threshold(name: str, value: str) -> float:
    if (threshold := _parse_fraction(name, value)) == 0.0:
        raise UsageError(f"{name} must be above 0.0; leave it out to collect nothing")
    return threshold


def _parse_divisions(name: str, value: str) -> tuple[int, ...]:
    """Divisions of each power of 2 (AcceleratorAllocatorConfig::parseRoundUpPower2Divisions).

    "4" stands for all sizes. "[256:1,512:2,>:8]" gives 1 up to 256 MiB and for sizes up to
    512 MiB, 2 for those from 512 MiB to 1 GiB, 8 for all above; a gap keeps 0.
    """
    if not value.startswith("["):
        if not _is_power_of_2(count := _parse_count(name, value)):
            raise UsageError(f"{name} takes a power of 2, not {value!r}")
        return (count,) * K_ROUND_UP_POWER_OF_TWO_INTERVALS
    divisions = [0] * K_ROUND_UP_POWER_OF_TWO_INTERVALS
    last = 0
    first = True
    for entry in value.strip("[]").split(","):
        start, _, number = entry.partition(":")
        count = _parse_count(name, number)
        if start == ">":
            divisions[last + 1 :] = [count] * (K_ROUND_UP_POWER_OF_TWO_INTERVALS - last - 1)
            continue
        start_mib = _parse_count(name, start)
        if not _is_power_of_2(start_mib):
            raise UsageError(f"{name} takes intervals that start at a power of 2, not {start!r}")
        last = min(start_mib.bit_length(), K_ROUND_UP_POWER_OF_TWO_INTERVALS) - 1
        if first:
            divisions[:last] = [count] * last
            first = False
        divisions[last] = count
    return tuple(divisions)


_CHOICES: Final[Mapping[str, Mapping[str, bool]]] = {
    "backend": {"native": True},
    "throw_on_cudamalloc_oom": {"False": False},
}

_PARSERS: Final[Mapping[str, tuple[str, Callable[[str, str], object]]]] = {
    "expandable_segments": ("expandable_segments", _parse_bool),
    "garbage_collection_threshold": ("garbage_collection_threshold", _parse_threshold),
    "large_segment_size_mb": ("large_segment_size_bytes", _parse_mib),
    "max_non_split_rounding_mb": ("max_non_split_rounding_bytes", _parse_mib),
    "max_split_size_mb": ("max_split_size_bytes", _parse_mib),
    "per_process_memory_fraction": ("per_process_memory_fraction", _parse_fraction),
    "roundup_power2_divisions": ("roundup_power2_divisions", _parse_divisions),
}


DEFAULT_SETTINGS: Final = AllocatorSettings()
