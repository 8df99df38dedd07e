"""One test a rule: what CUDA keeps or makes that meta and the CPU do not."""

import pytest
import torch
from torch.nn import functional as F

from petl_bench.cards import CARDS
from petl_bench.profilers.simulated.cuda_semantics import CudaKernels, foreach_by_default
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category, Phase


def made(ledger: Ledger) -> list[tuple[str, int]]:
    return [(ledger.operators[e], ledger.sizes[e]) for e in ledger.events if e >= 0]


def meta(*shape, dtype=torch.float32, grad=False):
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


def test_dropout_keeps_one_byte_an_element():
    """Dropout.cpp: fused on CUDA; Dropout.cu, dropout_cuda: the mask first."""
    x = meta(8, 100)
    with CudaKernels(), Ledger() as ledger:
        F.dropout(x, 0.1, training=True)
    assert made(ledger) == [("aten::native_dropout", 800), ("aten::native_dropout", 3200)]


@pytest.mark.parametrize("options", [{"p": 0.0}, {"p": 0.5, "training": False}])
def test_dropout_that_drops_nothing_makes_nothing(options):
    with CudaKernels(), Ledger() as ledger:
        F.dropout(meta(8, 100), **options)
    assert "native_dropout" not in str(made(ledger))


def test_softmax_backward_multiplies_gradient_and_result():
    """SoftMax.cu, softmax_backward_cuda_out: tmp = grad * output."""
    x = meta(4, 256, grad=True)
    with Ledger() as ledger:
        y = F.softmax(x, -1)
        y.backward(meta(4, 256))
    name = "aten::_softmax_backward_data"
    result, scratch = (e for e in ledger.events if e >= 0 and ledger.operators[e] == name)
    assert ledger.sizes[scratch] == 4 * 256 * 4
    at = ledger.events.index(scratch)
    assert ledger.events[at - 1 : at + 2] == [result, scratch, ~scratch]


def test_isinf_takes_the_absolute_value_first():
    """TensorCompare.cpp, isinf."""
    x = meta(64, dtype=torch.float16)
    with Ledger() as ledger:
        torch.isinf(x)
    assert [size for _, size in made(ledger)] == [128, 64]


@pytest.mark.parametrize(
    ("card", "workspace"),
    [("a100-80gb", 8_519_680), ("t4", 8_519_680), ("h100", 33_554_432)],
)
def test_each_thread_that_multiplies_matrices_gets_a_cublas_workspace(card, workspace):
    """CublasHandlePool.cpp, parseChosenWorkspaceSize; a handle for forward's and backward's."""
    x, w = meta(4, 4, grad=True), meta(4, 4, grad=True)
    ledger = Ledger(workspace_bytes=CARDS[card].cublas_workspace_bytes)
    with ledger:
        start = ledger.begin(Phase.FORWARD)
        y = (x @ w @ w).sum()
        ledger.end(0, Phase.FORWARD, start)
        ledger.begin(Phase.BACKWARD)
        y.backward()
    workspaces = [
        ledger.sizes[index]
        for index, category in enumerate(ledger.categories)
        if category is Category.WORKSPACE
    ]
    assert workspaces == [workspace, workspace]


def test_optimizers_take_their_foreach_form():
    parameter = meta(8, grad=True)
    parameter.grad = meta(8)
    optimizer = torch.optim.AdamW([parameter])
    with foreach_by_default(), Ledger() as ledger:
        optimizer.step()
    assert any("_foreach" in name for name, _ in made(ledger))


def test_a_question_about_a_value_is_answered_with_no():
    with Ledger():
        assert not bool(meta(3, dtype=torch.bool).all())
        assert meta(1).item() == 0


def test_layer_norm_keeps_mean_and_root_in_fp32():
    """layer_norm_kernel.cu, layer_norm_cuda: statistics in the accumulation type."""
    x, weight = (meta(*shape, dtype=torch.bfloat16, grad=True) for shape in ((4, 8, 64), (64,)))
    with CudaKernels(), Ledger() as ledger:
        F.layer_norm(x, [64], weight, weight)
    assert [size for _, size in made(ledger)] == [4 * 8 * 64 * 2, 4 * 8 * 4, 4 * 8 * 4]


@pytest.mark.parametrize(
    ("dtype", "made_bytes"),
    [(torch.float16, [400 * 4]), (torch.bfloat16, [400 * 4, 400 * 4])],
)
def test_softmax_from_fp16_needs_no_fp32_copy(dtype, made_bytes):
    """SoftMax.cpp, softmax: half_to_float, for Half alone."""
    x = meta(4, 100, dtype=dtype)
    with CudaKernels(), Ledger() as ledger:
        F.softmax(x, dim=-1, dtype=torch.float32)
    assert [size for _, size in made(ledger)] == made_bytes
