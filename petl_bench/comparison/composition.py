"""What a peak is made of, layer by layer, and what moved between two of them."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from petl_bench.case import Frozen
from petl_bench.record import Category, Part
from petl_bench.units import MIB

if TYPE_CHECKING:  # its module imports torch
    from petl_bench.explanation import LiveTensor

_LAYER = re.compile(r"\.(\d+)(?=\.|$)")
_NO_LAYER = -1


class Move(Frozen):
    """Tensors that only one of two peaks has, the same in each of `layers`."""

    category: Category
    module: str  # the layers' numbers written in
    operator: str
    in_backward: bool
    source: str
    layers: int  # how many
    tensors: int  # over all layers; below 0: they went
    stayed: int = 0  # tensors that both have, over all layers
    allocated_bytes: int  # over all layers; below 0: less

    @property
    def is_placement(self) -> bool:
        """Whether the allocator's blocks alone may explain it.

        A large block is not split where at most 1 MiB is left over (CUDACachingAllocator.cpp,
        should_split), so the same tensor may hold up to that more in another place.
        """
        return self.tensors == 0 and abs(self.allocated_bytes) <= self.stayed * MIB


class _Key(NamedTuple):
    category: Category
    module: str
    operator: str
    in_backward: bool


class _Amount(NamedTuple):
    tensors: int
    allocated_bytes: int

    def beyond(self, other: "_Amount") -> "_Amount":
        return _Amount(self.tensors - other.tensors, self.allocated_bytes - other.allocated_bytes)


_NOTHING = _Amount(0, 0)


def compose(tensors: Iterable["LiveTensor"]) -> tuple[Part, ...]:
    """`tensors` by category, module and operator; layers that have the same share a part."""
    counts: dict[_Key, Counter[int]] = defaultdict(Counter)
    sizes: dict[_Key, Counter[int]] = defaultdict(Counter)
    sources: dict[_Key, Counter[str]] = defaultdict(Counter)
    for tensor in tensors:
        match = _LAYER.search(tensor.module)
        layer = int(match[1]) if match else _NO_LAYER
        module = _LAYER.sub(".*", tensor.module, count=1)
        key = _Key(tensor.category, module, tensor.operator, tensor.in_backward)
        counts[key][layer] += 1
        sizes[key][layer] += tensor.allocated_bytes
        sources[key][tensor.source] += tensor.allocated_bytes
    parts = [
        Part(
            **key._asdict(),
            layers=_written(layers),
            source=max(sources[key].items(), key=lambda item: (item[1], item[0]))[0],
            **amount._asdict(),
        )
        for key in sizes
        for amount, layers in _alike(
            {layer: _Amount(counts[key][layer], sizes[key][layer]) for layer in sizes[key]}
        )
    ]
    return tuple(sorted(parts, key=lambda part: (part.category, part.module, part.operator)))


def moved(before: Iterable[Part], after: Iterable[Part]) -> tuple[Move, ...]:
    """What `after` has beyond `before`, or lacks; the largest first."""
    old, old_sources = _spread(before)
    new, new_sources = _spread(after)
    sources = old_sources | new_sources
    moves = []
    for key in {**new, **old}:
        was, now = old.get(key, {}), new.get(key, {})
        deltas = {}
        for layer in {**now, **was}:
            delta = now.get(layer, _NOTHING).beyond(was.get(layer, _NOTHING))
            if any(delta):
                deltas[layer] = delta
        for delta, layers in _alike(deltas):
            both = (min(was.get(n, _NOTHING).tensors, now.get(n, _NOTHING).tensors) for n in layers)
            moves.append(
                Move(
                    category=key.category,
                    module=key.module.replace("*", _written(layers) or "*", 1),
                    operator=key.operator,
                    in_backward=key.in_backward,
                    source=sources[key],
                    layers=len(layers),
                    tensors=delta.tensors * len(layers),
                    stayed=sum(both),
                    allocated_bytes=delta.allocated_bytes * len(layers),
                )
            )
    moves.sort(key=lambda m: (-abs(m.allocated_bytes), m.category, m.module, m.operator))
    return tuple(moves)


def total_bytes(parts: Iterable[Part]) -> int:
    """Bytes of all parts in all their layers."""
    return sum(part.allocated_bytes * len(_read(part.layers)) for part in parts)


def _spread(parts: Iterable[Part]) -> tuple[dict[_Key, dict[int, _Amount]], dict[_Key, str]]:
    """Each key's amounts by layer, and its source."""
    amounts: dict[_Key, dict[int, _Amount]] = defaultdict(dict)
    sources: dict[_Key, str] = {}
    for part in parts:
        key = _Key(part.category, part.module, part.operator, part.in_backward)
        sources[key] = part.source
        for layer in _read(part.layers):
            amounts[key][layer] = _Amount(part.tensors, part.allocated_bytes)
    return amounts, sources


def _alike(amounts: dict[int, _Amount]) -> list[tuple[_Amount, list[int]]]:
    """Layers in ascending order, by what they have in common."""
    layers: dict[_Amount, list[int]] = defaultdict(list)
    for layer in sorted(amounts):
        layers[amounts[layer]].append(layer)
    return list(layers.items())


def _written(layers: list[int]) -> str:
    """Numbers as ranges.

    >>> _written([0, 2, 3, 4])
    '0,2-4'
    """
    if layers == [_NO_LAYER]:
        return ""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _read(layers: str) -> list[int]:
    """The numbers that `_written` wrote.

    Raises:
        ValueError: it did not.
    """
    if not layers:
        return [_NO_LAYER]
    found: list[int] = []
    for run in layers.split(","):
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
