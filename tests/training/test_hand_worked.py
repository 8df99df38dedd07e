"""Whole steps small enough to add up on paper: every byte at the peak of every phase."""

import torch
from torch import nn
from torch.nn import functional as F

from petl_bench.profilers.simulated.cuda_semantics import CudaKernels, foreach_by_default
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category, Phase


def run_step(ledger, step, forward, optimizer):
    start = ledger.begin(Phase.FORWARD)
    loss = forward()
    ledger.end(step, Phase.FORWARD, start)
    start = ledger.begin(Phase.BACKWARD)
    loss.backward()
    del loss
    ledger.end(step, Phase.BACKWARD, start)
    start = ledger.begin(Phase.OPTIMIZER_STEP)
    optimizer.step()
    optimizer.zero_grad()
    ledger.end(step, Phase.OPTIMIZER_STEP, start)


def test_an_mlp_with_adamw(peaks_of):
    """W1 [5, 3], relu, W2 [2, 5], a batch of 4; fp32; the second step.

    Always there: W1 60, W2 40, input 48, two AdamW moments a weight 200: 348 bytes.
    Forward: hidden 80, relu 80; the hidden one goes, output 32, loss 4. Highest while both
    hidden ones stand: 160.
    Backward: relu 80 and loss 4 are there. Gradient of the loss 4, of W2 40, of the relu's
    result 80, of its input 80: 288 together. Then the relu and its gradient go, and W1's
    gradient, 60, comes.
    Optimizer: gradients 100, and the square roots of the second moments 100.
    """
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))
    model.to("meta")
    batch = torch.empty(4, 3, device="meta")
    ledger = Ledger()
    ledger.adopt(model.parameters(), Category.PARAMETER)
    ledger.adopt([batch], Category.INPUT)
    with foreach_by_default(), CudaKernels(), ledger:
        optimizer = torch.optim.AdamW(model.parameters())
        for step in range(2):
            run_step(ledger, step, lambda: model(batch).sum(), optimizer)
    assert peaks_of(ledger, step=1) == {
        Phase.FORWARD: 348 + 160,
        Phase.BACKWARD: 348 + 288,
        Phase.OPTIMIZER_STEP: 348 + 200,
    }


def test_an_attention_block(peaks_of):
    """One head of 4 on [2, 3, 4]; projections q, k, v, o of 64 bytes; fp32, SGD; dropout.

    Always there: weights 256, input 96: 352 bytes.
    Forward leaves q 96, k 96, v 96, softmax 72, its dropout 72 with a mask of 18, the attended
    values 96 and the loss 4: 546 and 4. Highest one moment before, with o's result 96 there, too.
    Backward adds the gradient of the loss 4 and of o's weight 64, then that of the attended
    values 96. It is highest then: o's result has for a gradient one number expanded, which cuBLAS
    does not read, so the product has a copy of it, 96. What follows is smaller: the attended values
    go, and the gradients of v 96 and of the dropout's result 72 come; softmax's backward holds 72
    three times, but v, the dropout and their gradients have gone by then.
    SGD keeps nothing and borrows nothing: four gradients of 64.
    """
    q, k, v, o = (nn.Linear(4, 4, bias=False, device="meta") for _ in range(4))
    x = torch.empty(2, 3, 4, device="meta")
    weights = [linear.weight for linear in (q, k, v, o)]
    ledger = Ledger()
    ledger.adopt(weights, Category.PARAMETER)
    ledger.adopt([x], Category.INPUT)

    def forward():
        attention = F.softmax(q(x) @ k(x).transpose(1, 2), dim=-1)
        return o(F.dropout(attention, 0.1) @ v(x)).sum()

    with foreach_by_default(), CudaKernels(), ledger:
        run_step(ledger, 0, forward, torch.optim.SGD(weights))
    left_by_forward = 96 + 96 + 96 + 72 + 72 + 18 + 96 + 4
    at_backwards_peak = left_by_forward + 4 + 64 + 96 + 96
    assert peaks_of(ledger, step=0) == {
        Phase.FORWARD: 352 + left_by_forward + 96,
        Phase.BACKWARD: 352 + at_backwards_peak,
        Phase.OPTIMIZER_STEP: 352 + 4 * 64,
    }
