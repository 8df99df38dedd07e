"""What an optimizer's step and clipping borrow, added up by hand: two weights, 400 and 80 bytes."""

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from petl_bench.profilers.simulated.cuda_semantics import foreach_by_default
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category


def trained_weights():
    weights = [torch.empty(n, device="meta", requires_grad=True) for n in (100, 20)]
    for weight in weights:
        weight.grad = torch.empty_like(weight)
    return weights


def borrowed(run, *held):
    """The most that `run` has at once beside `held`; and what it leaves there."""
    ledger = Ledger()
    ledger.adopt(held, Category.PARAMETER)
    before = peak = ledger.live_bytes()
    live = before
    done = len(ledger.events)
    with ledger:
        run()
    for event in ledger.events[done:]:
        live += ledger.sizes[event] if event >= 0 else -ledger.sizes[~event]
        peak = max(peak, live)
    return peak - before, live - before


STEP, BOTH, LARGER, SMALLER = 4, 480, 400, 80


@pytest.mark.parametrize(
    ("options", "state", "scratch"),
    [
        # torch/optim/adam.py, _multi_tensor_adam: roots of all second moments at once.
        ({}, 2 * BOTH, BOTH),
        # _single_tensor_adam: the root of one, and of it the quotient by the bias's correction.
        ({"foreach": False}, 2 * BOTH, 2 * LARGER),
        # FusedAdamWKernel.cu: one kernel; it counts steps on the device, a number a weight.
        ({"fused": True}, 2 * BOTH + 2 * STEP, 0),
    ],
)
def test_adamw_borrows_by_its_form(options, state, scratch):
    weights = trained_weights()
    with foreach_by_default():
        optimizer = torch.optim.AdamW(weights, **options)
        first = borrowed(optimizer.step, *weights)
        assert first[1] == state
        moments = [v for s in optimizer.state.values() for v in s.values()]
        assert borrowed(optimizer.step, *weights, *moments) == (scratch, 0)


def test_sgd_borrows_nothing():
    """torch/optim/sgd.py, _multi_tensor_sgd: without momentum or decay one sum in place."""
    weights = trained_weights()
    with foreach_by_default():
        assert borrowed(torch.optim.SGD(weights).step, *weights) == (0, 0)


def test_clipping_borrows_norms_and_their_parts():
    """torch/nn/utils/clip_grad.py; ForeachReduceOp.cu: a part a weight, and then its norm.

    The norms are stacked, 8 bytes, and their norm is 4. What was borrowed is at most the norms, the
    stack and the total: 20; the total is what it returns.
    """
    weights = trained_weights()
    gradients = [weight.grad for weight in weights]
    with foreach_by_default():
        assert borrowed(lambda: clip_grad_norm_(weights, 1.0), *weights, *gradients) == (20, 0)
