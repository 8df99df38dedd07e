"""Streams of allocations along an axis: few are simulated, the others are computed from those.

From one batch to the next the same operators allocate the same storages in the same order, and
each storage's bytes are a polynomial of the axis: of degree 1 in the batch, of degree 2 in the
sequence length (attention maps). So a few simulations give every stream between them, at a
replay's price. Where that does not hold (a kernel pads, another one is chosen), a simulation
differs from what was computed, and only simulations count there.

A computed stream is taken for a simulated one only beside a simulation, and only if all
simulations of its kind lie on one polynomial to the byte: more of them than define it, and two
of them neighbours, which tells a slope from the steps of a kernel that pads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil

from petl_bench.case import Workload
from petl_bench.explanation import LiveTensor
from petl_bench.profilers.simulated.allocator import AllocatorSettings
from petl_bench.profilers.simulated.capacity import Trial, attempt
from petl_bench.profilers.simulated.ledger import Window
from petl_bench.profilers.simulated.windows import Recorded
from petl_bench.record import Category

_PER_SAMPLE = frozenset({Category.ACTIVATION, Category.TEMPORARY, Category.INPUT})
"""What grows along an axis, to guess by as long as one simulation is all there is."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What a ledger recorded, without its tensors; fields as in `Ledger`."""

    events: tuple[int, ...]
    sizes: tuple[int, ...]
    categories: tuple[Category, ...]
    operators: tuple[str, ...]
    windows: tuple[Window, ...]
    streams: Mapping[int, int] = field(default_factory=dict)
    describe: Callable[[int, int], LiveTensor] | None = field(default=None, compare=False)
    """What a storage is, by its index and bytes."""

    @classmethod
    def of(
        cls, ledger: Recorded, describe: Callable[[int, int], LiveTensor] | None = None
    ) -> "Stream":
        """The stream in `ledger` up to the end of its last window.

        What a ledger hears afterwards are the frees of a model that is let go.
        """
        return cls(
            events=tuple(ledger.events[: ledger.windows[-1].stop]),
            sizes=tuple(ledger.sizes),
            categories=tuple(ledger.categories),
            operators=tuple(ledger.operators),
            windows=tuple(ledger.windows),
            streams=dict(ledger.streams),
            describe=describe,
        )

    def alike(self, other: "Stream") -> bool:
        """Whether the two differ in nothing but sizes."""
        return (self.events, self.operators) == (other.events, other.operators) and (
            self.categories,
            self.windows,
            self.streams,
        ) == (other.categories, other.windows, other.streams)


class Streams:
    """One case's streams along an axis of whole numbers."""

    def __init__(
        self,
        run: Callable[[int], Stream],
        workload: Workload,
        settings: AllocatorSettings,
        degree: int | None,
    ) -> None:
        """`run` simulates; `degree` is that of sizes along the axis, None where they have none."""
        self.simulated: dict[int, Stream] = {}
        self._kinds: dict[int, int] = {}  # by place: the first one whose stream is like its own
        self._run = run
        self._workload = workload
        self._settings = settings
        self._degree = degree
        self._lawful: dict[tuple[int, ...], bool] = {}
        self._trials: dict[tuple[int, int | None], Trial] = {}
        self._computed: dict[int, Stream | None] = {}

    def simulate(self, place: int) -> None:
        """Simulate `place`; what was computed from fewer simulations is forgotten."""
        known = self.simulated
        self._trials = {key: made for key, made in self._trials.items() if key[0] in known}
        self._computed.clear()
        stream = self._run(place)
        kinds = (kind for kind in set(self._kinds.values()) if known[kind].alike(stream))
        first = self._kinds[place] = next(kinds, place)
        if first != place:  # one description serves all of a kind, and holds a whole simulation
            stream = replace(stream, describe=known[first].describe)
        known[place] = stream

    def trial(self, place: int, capacity_bytes: int | None) -> Trial | None:
        """What comes of `place` in so many bytes, simulated or computed; None: not known."""
        key = place, capacity_bytes
        if key not in self._trials:
            stream = self._stream(place)
            if stream is None:
                return None
            settings = self._settings
            if capacity_bytes is None:
                settings = replace(settings, per_process_memory_fraction=1.0)
            self._trials[key] = attempt(stream, self._workload, capacity_bytes, settings)
        return self._trials[key]

    def is_certain(self, place: int) -> bool:
        """Whether the stream at `place` is simulated, or as good as simulated (see above)."""
        beside = [near for near in (place - 1, place + 1) if near in self.simulated]
        return place in self.simulated or any(map(self._is_lawful, beside))

    def guess(self, capacity_bytes: int) -> int | None:
        """Where the reserved peak passes `capacity_bytes`, by the two simulations nearest to it."""
        peaks = []
        for place in self.simulated:
            made = self.trial(place, None)
            assert made is not None
            peaks.append((made.peak_reserved_bytes, place))
        peaks.sort(key=lambda peak: abs(peak[0] - capacity_bytes))
        if len(peaks) == 1:
            return None
        (near, here), (far, there) = peaks[:2]
        if near == far:
            return None
        return here + (capacity_bytes - near) * (there - here) // (far - near)

    def certain_stream(self, place: int) -> Stream:
        """The stream at a place that is certain."""
        stream = self._stream(place)
        assert stream is not None
        return stream

    def _stream(self, place: int) -> Stream | None:
        if place in self.simulated:
            return self.simulated[place]
        if place not in self._computed:
            self._computed[place] = self._compute(place)
        return self._computed[place]

    def _compute(self, place: int) -> Stream | None:
        """The stream at `place`, from the simulations nearest to it that are alike."""
        if self._degree is None or not self.simulated:
            return None
        nearest = sorted(self.simulated, key=lambda known: (abs(known - place), known))
        kinds = [self._alike(known, nearest) for known in nearest]
        enough = [kind for kind in kinds if len(kind) > self._degree]
        nodes = sorted((enough or [max(kinds, key=len)])[0][: self._degree + 1])
        streams = [self.simulated[node] for node in nodes]
        if len(nodes) == 1:
            (node,), (stream,) = nodes, streams
            sizes = [
                ceil(size * place / node) if category in _PER_SAMPLE else size
                for size, category in zip(stream.sizes, stream.categories, strict=True)
            ]
        else:
            sizes = _interpolated(nodes, [stream.sizes for stream in streams], place)
        return replace(streams[0], sizes=tuple(sizes))

    def _is_lawful(self, place: int) -> bool:
        """Whether the simulations of the kind of `place` lie on one polynomial, without doubt."""
        nodes = tuple(sorted(self._alike(place, list(self.simulated))))
        if self._degree is None or len(nodes) < self._degree + 2:
            return False
        if not any(near - node == 1 for node, near in pairwise(nodes)):
            return False
        if nodes not in self._lawful:
            first, rest = nodes[: self._degree + 1], nodes[self._degree + 1 :]
            sizes = [self.simulated[node].sizes for node in first]
            self._lawful[nodes] = all(
                tuple(_interpolated(first, sizes, node)) == self.simulated[node].sizes
                for node in rest
            )
        return self._lawful[nodes]

    def _alike(self, place: int, places: Sequence[int]) -> list[int]:
        """Those of the simulated `places` whose streams differ from that of `place` in sizes."""
        return [each for each in places if self._kinds[each] == self._kinds[place]]


def _interpolated(nodes: Sequence[int], values: Sequence[Sequence[int]], place: int) -> list[int]:
    """Lagrange's polynomial through `values` at `nodes`, of every storage at `place`; 0 or more."""
    weights = [Fraction(1)] * len(nodes)
    for i, node in enumerate(nodes):
        for other in nodes:
            if other != node:
                weights[i] *= Fraction(place - other, node - other)
    common = 1
    for weight in weights:
        common *= weight.denominator
    whole = [int(weight * common) for weight in weights]
    columns = list(zip(*values, strict=True))
    found = {  # layers repeat, so most columns come many times
        column: max(0, -(-sum(w * v for w, v in zip(whole, column, strict=True)) // common))
        for column in set(columns)
    }
    return [found[column] for column in columns]
