"""torch 1.10's ways, one by one; together they give the LST paper's memory table."""

import pytest
import torch
from torch.nn import functional as F

from petl_bench import backbones, cards, method_spec
from petl_bench.assembly import assemble, make_batch
from petl_bench.case import Case, Workload
from petl_bench.eras import ERAS as NAMES
from petl_bench.eras import TORCH_1_10
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.record import Category, Phase
from petl_bench.units import PAPER_GB

PAPER = {
    "full": 17.6,
    "adapter": 13.0,
    "lora[biases=all]": 12.6,
    "bitfit": 10.7,
    "prompt": 22.2,
    "lst[keep=all]": 7.0,
}
OLD, TODAY = ERAS[TORCH_1_10], ERAS[None]


def test_every_name_has_an_era():
    assert set(NAMES) | {None} == set(ERAS)


@pytest.mark.parametrize(("spec", "paper"), PAPER.items())
def test_the_papers_memory_column_comes_out_within_one_percent(spec, paper):
    """Table 1 and the supplement's table of designs: T5-base, batch 100, vocabulary 32,100."""
    found = backbones.find("t5-base")
    backbone = found.model_copy(update={"config": {**found.config, "vocab_size": 32_100}})
    ((_, method),) = method_spec.parse_specs(spec)
    case = Case(backbone=backbone, method=method, workload=Workload())
    peak = simulate(case, cards.find("a6000"), OLD).peak_allocated_bytes
    assert peak / PAPER_GB == pytest.approx(paper, rel=0.01)


def kept_by(era, function, *shape):
    """Bytes that a function's graph keeps beside its input and result."""
    x = torch.empty(*shape, device="meta", requires_grad=True)
    ledger = Ledger()
    ledger.adopt([x], Category.INPUT)
    with era.kernels(), ledger:
        y = function(x * 1.0)
    return ledger.live_bytes() - x.nbytes - y.nbytes


def test_softmax_kept_its_input():
    assert kept_by(TODAY, lambda x: F.softmax(x, dim=-1), 4, 100) == 0
    assert kept_by(OLD, lambda x: F.softmax(x, dim=-1), 4, 100) == 4 * 100 * 4


def test_the_old_softmax_and_cross_entropy_compute_the_same():
    torch.manual_seed(0)
    target = torch.tensor([1, -100, 3])

    def loss(x):
        return F.cross_entropy(F.softmax(x, dim=-1), target)

    x, y = torch.randn(2, 3, 5).unbind()
    y = x.clone().requires_grad_()
    x.requires_grad_()
    loss(x).backward()
    with OLD.kernels():
        loss(y).backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_the_tanh_gelu_was_a_formula_and_kept_more():
    torch.manual_seed(0)
    x = torch.randn(64)
    with OLD.kernels():
        written_out = F.gelu(x, approximate="tanh")
    torch.testing.assert_close(written_out, F.gelu(x, approximate="tanh"))

    def gelu(x):
        return F.gelu(x, approximate="tanh")

    assert kept_by(OLD, gelu, 100) > kept_by(TODAY, gelu, 100)


def test_zero_grad_kept_the_gradients():
    parameter = torch.nn.Parameter(torch.ones(3))
    for era, kept in ((TODAY, False), (OLD, True)):
        optimizer = torch.optim.AdamW([parameter])
        era.prepare(optimizer)
        parameter.grad = torch.ones(3)
        optimizer.zero_grad()
        assert (parameter.grad is not None) is kept


@pytest.mark.parametrize(("era", "name"), [(TODAY, "aten::add_"), (OLD, "aten::add.Tensor")])
def test_gradients_were_summed_out_of_place(era, name):
    x = torch.empty(16, device="meta", requires_grad=True)
    ledger = Ledger(sums_in_place=era.sums_in_place)
    with ledger:
        total = (x * 2 + x * 3).sum()
        ledger.begin(Phase.BACKWARD)
        before = len(ledger.events)
        total.backward()
    made = [ledger.operators[event] for event in ledger.events[before:] if event >= 0]
    assert (name in made) is (era is OLD)


def test_a_decoders_keys_and_values_lived_until_the_end_of_forward(make_tiny_t5):
    """Four layers of two attentions, two projections of 32 floats a token each."""
    workload = Workload(batch_size=3, source_length_tokens=7, target_length_tokens=5)
    backbone = make_tiny_t5()
    case = Case(backbone=backbone, method=method_spec.resolve("bitfit", {}), workload=workload)
    trainee = assemble(case, torch.device("meta"))
    ledger = Ledger()
    ledger.adopt(trainee.model.parameters(), Category.PARAMETER)
    batch = make_batch(case, torch.device("meta"))
    ledger.adopt(batch.values(), Category.INPUT)
    with ledger, torch.no_grad():
        with OLD.forward_pass(trainee):
            trainee.model(**batch)
            held = ledger.live_bytes()
        assert held - ledger.live_bytes() == 4 * 2 * 4 * 32 * 3 * (5 + 7)
