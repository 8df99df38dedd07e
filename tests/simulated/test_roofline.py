"""Seconds of operators whose bytes and FLOPs can be counted by hand."""

import pytest
import torch
from torch.nn import functional as F

from petl_bench.cards import CARDS
from petl_bench.processors import Kind, Processor
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.machines import Cpu, Gpu, Product
from petl_bench.profilers.simulated.roofline import Roofline, moved_bytes

CARD = CARDS["a100-80gb"]
GPU = Gpu(CARD)
CPU = Cpu(
    Processor(  # round rates, so that seconds can be read
        name="round",
        title="Round",
        flops_per_s=1e6,
        pack_s=1e-3,
        bytes_per_s=1e3,
        launch_s=1e-9,
        element_s={Kind.EXPONENTIAL: 10.0, Kind.ERROR_FUNCTION: 30.0, Kind.STRIDED: 20.0},
    )
)


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def bytes_of(run):
    """Bytes that the operators of `run` move, views left out."""
    moved = []

    def note(func, args, out, flops):
        del flops
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        outs = [out] if isinstance(out, torch.Tensor) else [o for o in out if o is not None]
        if not func.is_view:
            moved.append(moved_bytes(func, tensors, outs))

    with Ledger() as ledger:
        ledger.on_operator = note
        run()
    return sum(moved)


X, Y = meta(100, 10), meta(100, 10)  # 4,000 bytes each
W = meta(10, 20)  # 800
ROWS = torch.empty(7, dtype=torch.long, device="meta")  # 56


@pytest.mark.parametrize(
    ("run", "moved"),
    [
        (lambda: X + Y, 12_000),
        (lambda: X * X, 8_000),  # read once
        (X.relu, 8_000),
        (lambda: X.add_(Y), 12_000),  # read, read, written
        (lambda: X.copy_(Y), 8_000),
        (X.zero_, 4_000),
        (lambda: torch.zeros_like(X), 4_000),
        (lambda: X + Y[:1], 8_040),  # a row is read once
        (lambda: F.embedding(ROWS, X), 56 + 2 * 7 * 10 * 4),  # seven rows of the table
        (lambda: X @ W, 4_000 + 800 + 8_000),
    ],
)
def test_what_an_operator_must_read_and_write(run, moved):
    assert bytes_of(run) == moved


def estimate(run, machine=GPU):
    roofline = Roofline(machine)
    with Ledger(cuda=machine is GPU) as ledger:
        ledger.on_operator = roofline.add
        run()
    return roofline.estimate()


@pytest.mark.parametrize(("dtype", "rate"), [(torch.float32, 19.5e12), (torch.bfloat16, 312e12)])
def test_a_large_product_is_bound_by_the_rate_of_its_type(dtype, rate):
    a, b = meta(8192, 8192, dtype=dtype), meta(8192, 8192, dtype=dtype)
    found = estimate(lambda: a @ b)
    assert found.step_s == found.compute_bound_s == pytest.approx(2 * 8192**3 / rate, rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "tiles"),
    [
        ((1, 64, 64, 128), 1),
        ((1, 10, 10, 128), 1),  # as long as a full tile
        ((1, 64, 108 * 64, 128), 1),  # a tile each of 108 multiprocessors
        ((1, 64, 109 * 64, 128), 2),  # one is left for a second wave
        ((108, 64, 64, 128), 1),
        ((1, 64, 64, 32 * 128), 1),  # one tile, its sums shared out
        ((1, 64, 64, 127), 127 / 128),
        ((1, 256, 128 * 108, 256), 8 * 2),
    ],
)
def test_a_product_takes_as_long_as_its_waves_of_tiles(shape, tiles):
    """In times of a tile of 64 by 64 with sums of 128 terms on one multiprocessor."""
    tile_s = 2 * 64 * 64 * 128 / (CARD.fp32_flops_per_s / 108)
    assert GPU.product_s(Product(*shape), half=False) == pytest.approx(tiles * tile_s)


def test_the_host_runs_ahead_of_the_card():
    large = estimate(lambda: meta(8192, 8192) + 1.0)
    large_s = 2 * 4 * 8192**2 / 2039e9
    assert large.step_s == large.memory_bound_s == pytest.approx(large_s)
    small = estimate(lambda: X + 1.0)
    assert small.step_s == pytest.approx(CARD.launch_s)
    assert small.launch_bound_s == pytest.approx(CARD.launch_s - 8_000 / 2039e9)
    both = estimate(lambda: [meta(8192, 8192) + 1.0, *(X + 1.0 for _ in range(20))])
    assert both.launch_bound_s == 0
    assert both.step_s == pytest.approx(large_s + 20 * 8_000 / 2039e9)


def test_views_and_allocations_take_no_time():
    found = estimate(lambda: (X.t()[:3], torch.empty_like(X), X + 1.0))
    assert found.step_s == pytest.approx(CARD.launch_s)


def test_lists_written_in_place_are_counted():
    found = estimate(lambda: torch._foreach_mul_([meta(8192, 8192), meta(8192, 8192)], 2.0))
    assert found.step_s == pytest.approx(2 * 2 * 4 * 8192**2 / 2039e9)


@pytest.mark.parametrize(
    ("run", "seconds"),
    [
        (lambda: X + Y, 12.0),  # 12,000 bytes
        (lambda: X @ W, 12.8),  # 12,800 bytes
        (lambda: torch.exp(X), 1_000 * 10.0),
        (lambda: torch._safe_softmax(X, 1), 1_000 * 10.0),
        (lambda: F.gelu(X), 1_000 * 30.0),
        (lambda: X.t().clone(), 8.0),  # keeps its order
        (lambda: X.t().contiguous(), 1_000 * 20.0),
    ],
)
def test_a_cpu_waits_for_the_slower_of_arithmetic_and_traffic(run, seconds):
    assert estimate(run, CPU).step_s == pytest.approx(seconds, abs=1e-6)


def test_a_cpu_packs_the_factors_of_a_product():
    """2 * 100 * 20 * 10 FLOPs, and 10 * (100 + 20) elements packed."""
    assert CPU.product_s(Product(1, 100, 20, 10), half=False) == pytest.approx(0.04 + 1.2)


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)
def test_every_card_knows_its_multiprocessor(card):
    """Half is faster than fp32, memory larger than the context."""
    assert card.threads_per_multiprocessor in {1024, 1536, 2048}
    assert card.shared_memory_bytes >= 64 * 1024
    assert card.half_flops_per_s > card.fp32_flops_per_s
    assert 0 < card.context_bytes < card.memory_bytes / 10
