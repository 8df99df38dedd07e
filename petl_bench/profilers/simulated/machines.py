"""What a machine needs for one operator: a GPU from its card, a CPU from rates timed on it.

Both have one form. An operator takes as long as the slower of its arithmetic and its traffic; a
GPU's host only launches and goes on, while a CPU comes back when it is done.

A product on a GPU is cut into tiles, one a multiprocessor at a time, and the last wave of tiles
takes as long as a full one. Sizes of tiles, and quantisation to them and to waves: NVIDIA, Matrix
Multiplication Background User's Guide (DU-09799-001), sections 3 and 4.

Legend: M rows, N columns, K terms of a sum.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from petl_bench.cards import Card
from petl_bench.processors import Kind, Processor
from petl_bench.profilers.simulated.kernels.recipe import ceil_div


class Product(NamedTuple):
    """`batch` matrix products, [M, K] by [K, N]."""

    batch: int
    rows: int
    columns: int
    terms: int

    @property
    def flops(self) -> int:
        """A multiplication and an addition a term."""
        return 2 * self.batch * self.rows * self.columns * self.terms


class Machine(Protocol):
    """What the roofline asks of a machine; all in seconds."""

    @property
    def name(self) -> str:
        """As records call it."""

    @property
    def launch_s(self) -> float:
        """Of the host, for one operator."""

    @property
    def waits(self) -> bool:
        """Whether the host does nothing else until an operator is done."""

    def product_s(self, product: Product, *, half: bool) -> float:
        """Arithmetic of matrix products; in 16 bit where `half`."""

    def flops_s(self, flops: int, *, half: bool) -> float:
        """Arithmetic of anything else that has FLOPs."""

    def traffic_s(self, moved_bytes: int) -> float:
        """Reading and writing."""

    def elements_s(self, kind: Kind, elements: int) -> float:
        """Arithmetic of elements, one by one."""


_TILES = ((256, 128), (128, 256), (128, 128), (256, 64), (64, 256), (128, 64), (64, 128), (64, 64))
_LEAST_TERMS = 128  # of a part, where the sums of few tiles are split among multiprocessors


@dataclass(frozen=True)
class Gpu:
    """A card at its peak rates, but for what its multiprocessors cannot share out evenly."""

    card: Card
    waits: bool = False

    @property
    def name(self) -> str:
        """The card's."""
        return self.card.name

    @property
    def launch_s(self) -> float:
        """The card's."""
        return self.card.launch_s

    def product_s(self, product: Product, *, half: bool) -> float:
        """With the tile, and the split of the sums, that need the least time.

        Tiles of every size are taken to run at the peak rate, so this is a bound, too.
        """
        rate = self._rate(half) / self.card.multiprocessors
        splits = {2**power for power in range(6) if product.terms >> power >= _LEAST_TERMS} | {1}
        return min(
            self._waves(product, tile, split)
            * 2
            * tile[0]
            * tile[1]
            * ceil_div(product.terms, split)
            / rate
            for tile in _TILES
            for split in splits
        )

    def _waves(self, product: Product, tile: tuple[int, int], split: int) -> int:
        tiles = ceil_div(product.rows, tile[0]) * ceil_div(product.columns, tile[1])
        return ceil_div(product.batch * tiles * split, self.card.multiprocessors)

    def flops_s(self, flops: int, *, half: bool) -> float:
        """At the peak rate."""
        return flops / self._rate(half)

    def traffic_s(self, moved_bytes: int) -> float:
        """Through the card's memory."""
        return moved_bytes / self.card.bandwidth_bytes_per_s

    def elements_s(self, kind: Kind, elements: int) -> float:
        """Nothing beside their traffic."""
        del kind, elements
        return 0.0

    def _rate(self, half: bool) -> float:  # noqa: FBT001
        return self.card.half_flops_per_s if half else self.card.fp32_flops_per_s


@dataclass(frozen=True)
class Cpu:
    """One thread of a processor.

    A product's factors are first packed into panels that fit the caches (Goto & van de Geijn 2008,
    doi:10.1145/1356052.1356053), which a product of few rows feels.
    """

    processor: Processor
    waits: bool = True

    @property
    def name(self) -> str:
        """The processor's."""
        return self.processor.name

    @property
    def launch_s(self) -> float:
        """The processor's."""
        return self.processor.launch_s

    def product_s(self, product: Product, *, half: bool) -> float:
        """At one rate, and the packing; one thread leaves no core idle."""
        batch, rows, columns, terms = product
        packed = batch * terms * (rows + columns)
        return self.flops_s(product.flops, half=half) + packed * self.processor.pack_s

    def flops_s(self, flops: int, *, half: bool) -> float:
        """In fp32's rate; 16 bit is not timed."""
        del half
        return flops / self.processor.flops_per_s

    def traffic_s(self, moved_bytes: int) -> float:
        """Through memory."""
        return moved_bytes / self.processor.bytes_per_s

    def elements_s(self, kind: Kind, elements: int) -> float:
        """By the kind's own rate."""
        return elements * self.processor.element_s.get(kind, 0.0)
