"""Seconds of operators whose bytes and FLOPs can be counted by hand."""

import pytest
import torch
from torch.nn import functional as F

from petl_bench.cards import CARDS
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.roofline import Roofline, moved_bytes

CARD = CARDS["a100-80gb"]


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


def estimate(run, card=CARD):
    roofline = Roofline(card)
    with Ledger() as ledger:
        ledger.on_operator = roofline.add
        run()
    return roofline.estimate()


@pytest.mark.parametrize(("dtype", "rate"), [(torch.float32, 19.5e12), (torch.bfloat16, 312e12)])
def test_a_large_product_is_bound_by_the_rate_of_its_type(dtype, rate):
    a, b = meta(8192, 8192, dtype=dtype), meta(8192, 8192, dtype=dtype)
    found = estimate(lambda: a @ b)
    assert found.step_s == found.compute_bound_s == pytest.approx(2 * 8192**3 / rate)


def test_a_large_sum_is_bound_by_bandwidth_and_a_small_one_by_its_launch():
    large = estimate(lambda: meta(8192, 8192) + 1.0)
    assert large.step_s == large.memory_bound_s == pytest.approx(2 * 4 * 8192**2 / 2039e9)
    small = estimate(lambda: X + 1.0)
    assert small.step_s == small.launch_bound_s == CARD.launch_s


def test_views_and_allocations_take_no_time():
    found = estimate(lambda: (X.t()[:3], torch.empty_like(X), X + 1.0))
    assert found.step_s == CARD.launch_s


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)
def test_every_card_knows_its_multiprocessor(card):
    """Half is faster than fp32, memory larger than the context."""
    assert card.threads_per_multiprocessor in {1024, 1536, 2048}
    assert card.shared_memory_bytes >= 64 * 1024
    assert card.half_flops_per_s > card.fp32_flops_per_s
    assert 0 < card.context_bytes < card.memory_bytes / 10
