"""What a machine needs for one operator: a GPU from its card, a CPU from rates timed on it.

Both have one form. An operator takes as long as the slower of its arithmetic and its traffic; a
GPU's host only launches and goes on, while a CPU comes back when it is done.

A product on a GPU is cut into tiles, one a multiprocessor at a time, and the last wave of tiles
takes as long as a full one. Sizes of tiles, and quantisation to them and to waves: NVIDIA, Matrix
Multiplication Background User's Guide (DU-09799-001), sections 3 and 4.

Legend: M rows, N columns, K terms of a sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from petl_bench.cards import Card
from petl_bench.profilers.simulated.kernels.recipe import ceil_div
from petl_bench.units import MIB


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


class Kind(StrEnum):
    """What an element costs a CPU beside its bytes; a GPU has lanes enough."""

    PLAIN = "plain"
    RANDOM = "random"  # a random number
    EXPONENTIAL = "exponential"  # exp, and what is made of one: softmax, sigmoid
    TANH = "tanh"
    ROOT = "root"
    CHOICE = "choice"  # by a mask
    STRIDED = "strided"  # read across the order in which it lies


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

    def traffic_s(self, moved_bytes: int, fresh_bytes: Sequence[int]) -> float:
        """Reading and writing; `fresh_bytes` are of results in new memory."""

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

    def traffic_s(self, moved_bytes: int, fresh_bytes: Sequence[int]) -> float:
        """Through the card's memory; the caching allocator's memory is never new."""
        del fresh_bytes
        return moved_bytes / self.card.bandwidth_bytes_per_s

    def elements_s(self, kind: Kind, elements: int) -> float:
        """Nothing beside their traffic."""
        del kind, elements
        return 0.0

    def _rate(self, half: bool) -> float:  # noqa: FBT001
        return self.card.half_flops_per_s if half else self.card.fp32_flops_per_s


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """A CPU, by rates that were timed on it with small programs that know no model.

    A product's factors are first packed into panels that fit the caches (Goto & van de Geijn 2008,
    doi:10.1145/1356052.1356053), which a product of few rows feels. Memory from `mapped_bytes` on
    comes from the system a page at a time: glibc's largest M_MMAP_THRESHOLD (mallopt(3)).
    """

    flops_per_s: float  # of a large product
    pack_s: float  # an element of a product's factors
    bytes_per_s: float  # of sums of tensors that have left the caches, as a step's mostly have
    page_s: float  # a byte of memory that is new to the process
    launch_s: float  # a small operator with the views, Python and autograd around it
    element_s: Mapping[Kind, float]
    mapped_bytes: int = 32 * MIB
    name: str = "cpu"
    waits: bool = True

    def product_s(self, product: Product, *, half: bool) -> float:
        """At one rate, and the packing; a CPU has too few cores to leave some idle."""
        batch, rows, columns, terms = product
        packed = batch * terms * (rows + columns)
        return self.flops_s(product.flops, half=half) + packed * self.pack_s

    def flops_s(self, flops: int, *, half: bool) -> float:
        """In fp32's rate; 16 bit is not timed."""
        del half
        return flops / self.flops_per_s

    def traffic_s(self, moved_bytes: int, fresh_bytes: Sequence[int]) -> float:
        """Through memory; and new pages."""
        pages = sum(size for size in fresh_bytes if size >= self.mapped_bytes)
        return moved_bytes / self.bytes_per_s + pages * self.page_s

    def elements_s(self, kind: Kind, elements: int) -> float:
        """By the kind's own rate."""
        return elements * self.element_s.get(kind, 0.0)
