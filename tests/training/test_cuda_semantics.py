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


B, H, S, L, K = 2, 3, 5, 16, 8


def attend(ledger, *, keys=L, head=K, dtype=torch.float32, dropout=0.1):
    query = meta(B, H, S, head, dtype=dtype, grad=True)
    key, value = (meta(B, H, keys, head, dtype=dtype, grad=True) for _ in range(2))
    mask = meta(B, H, S, keys, dtype=dtype)
    ledger.adopt([mask], Category.INPUT)
    with CudaKernels(), ledger:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=1.0
        )


def test_attention_with_a_mask_takes_the_memory_efficient_kernel():
    """attention.cu: the output, and a log-sum-exp in fp32 with queries padded to 32; the seeds
    stay on the host."""
    ledger = Ledger()
    out = attend(ledger)
    sizes = [size for name, size in made(ledger) if name != "(loaded)"]
    assert sizes == [B * H * S * K * 4, B * H * 32 * 4]
    assert out.shape == (B, H, S, K)


def test_a_mask_whose_rows_are_not_a_multiple_of_8_is_padded():
    """attention.cpp, pad_bias."""
    ledger = Ledger()
    attend(ledger, keys=3)
    assert made(ledger)[1] == ("aten::constant_pad_nd", B * H * S * 8 * 4)


@pytest.mark.parametrize(
    ("dtype", "head", "efficient"),
    [
        (torch.float32, 4, True),
        (torch.float32, 6, False),
        (torch.bfloat16, 8, True),
        (torch.bfloat16, 4, False),
    ],
)
def test_a_head_size_that_is_not_aligned_takes_the_math_kernel(dtype, head, efficient):
    """sdp_utils.cpp, check_head_dim_size_mem_efficient."""
    ledger = Ledger()
    attend(ledger, dtype=dtype, head=head)
    assert any("efficient" in name for name, _ in made(ledger)) is efficient
    assert any("softmax" in name for name, _ in made(ledger)) is not efficient


def test_the_math_kernel_computes_attention():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 6) for _ in range(3))
    mask = torch.randn(2, 3, 5, 5)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.7)
    with CudaKernels():
        actual = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.7)
    torch.testing.assert_close(actual, expected)


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


def heads(*shape, dtype=torch.bfloat16):
    return meta(*shape, dtype=dtype, grad=True)


def run_attention(card="a100-80gb", *, backward=False, **options):
    """Operators and bytes of one unmasked call on [2, 4, 160, head] in bf16."""
    head, key_heads = options.pop("head", 64), options.pop("key_heads", 4)
    dtype = options.pop("dtype", torch.bfloat16)
    query = heads(2, 4, 160, head, dtype=dtype)
    key, value = (heads(2, key_heads, 160, head, dtype=dtype) for _ in range(2))
    ledger = Ledger()
    ledger.adopt([query, key, value], Category.INPUT)
    with CudaKernels(CARDS[card]), ledger:
        out = F.scaled_dot_product_attention(query, key, value, **options)
        assert out.shape == (2, 4, 160, head)
        if backward:
            out.sum().backward()
    return made(ledger)[3:]


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({}, "flash"),
        ({"is_causal": True}, "flash"),
        ({"key_heads": 2, "enable_gqa": True}, "flash"),
        ({"head": 512}, "efficient"),
        ({"dtype": torch.float32}, "efficient"),
        ({"card": "t4"}, "softmax"),  # Turing has no bf16
        ({"card": "t4", "dtype": torch.float16}, "efficient"),
        ({"attn_mask": meta(160, 160, dtype=torch.bool)}, "efficient"),
        ({"dtype": torch.float32, "head": 6, "is_causal": True}, "softmax"),
    ],
)
def test_attention_takes_the_first_kernel_that_can(options, kernel):
    """sdp_utils.cpp, select_sdp_backend: flash, memory-efficient, math."""
    assert any(kernel in name for name, _ in run_attention(**options))


def test_flash_keeps_its_output_and_a_log_sum_exp():
    """flash_api.cpp, mha_fwd: out, softmax_lse [B, H, S] in fp32 and the random state."""
    sizes = dict.fromkeys(size for _, size in run_attention())
    assert list(sizes)[:2] == [2 * 4 * 160 * 64 * 2, 2 * 4 * 160 * 4]


def test_flash_backward_accumulates_the_query_gradient_in_fp32():
    """flash_api.cpp, mha_bwd: softmax_d and dq_accum, with queries rounded up to 128."""
    calls = run_attention(backward=True, head=96)
    sizes = [size for name, size in calls if "flash_attention_backward" in name]
    assert sizes[-2:] == [2 * 4 * 256 * 4, 2 * 256 * 4 * 96 * 4]


def test_flash_backward_expands_grouped_heads():
    """flash_api.cpp, mha_bwd: dk_expanded and dv_expanded."""
    calls = run_attention(backward=True, key_heads=2, enable_gqa=True)
    sizes = [size for name, size in calls if "flash_attention_backward" in name]
    assert sizes[-2:] == [2 * 160 * 4 * 64 * 2] * 2


def test_layer_norm_keeps_mean_and_root_in_fp32():
    """layer_norm_kernel.cu, layer_norm_cuda: statistics in the accumulation type."""
    x, weight = heads(4, 8, 64), heads(64)
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
