"""Which attention runs on CUDA, what it keeps and what it borrows, added up by hand."""

import pytest
import torch
from torch.nn import functional as F

from petl_bench.cards import CARDS
from petl_bench.profilers.simulated.cuda_semantics import CudaKernels
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category


def made(ledger: Ledger) -> list[tuple[str, int]]:
    return [(ledger.operators[e], ledger.sizes[e]) for e in ledger.events if e >= 0]


def meta(*shape, dtype=torch.float32, grad=False):
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


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


def heads(*shape, dtype=torch.bfloat16):
    return meta(*shape, dtype=dtype, grad=True)


def run_attention(card="a100-80gb", *, backward=False, **options):
    """Operators and bytes of one unmasked call on [2, 4, 160, head] in bf16."""
    head, key_heads = options.pop("head", 64), options.pop("key_heads", 4)
    dtype = options.pop("dtype", torch.bfloat16)
    query = heads(2, 4, 160, head, dtype=dtype)
    key, value = (heads(2, key_heads, 160, head, dtype=dtype) for _ in range(2))
    ledger = Ledger(card=CARDS[card])
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


# --- cuDNN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({}, "cudnn"),
        ({"dropout_p": 0.125}, "cudnn"),
        ({"dropout_p": 0.1}, "flash"),  # not a multiple of 1/16
        ({"attn_mask": meta(160, 160, dtype=torch.bool)}, "cudnn"),
        ({"attn_mask": meta(160, 160, dtype=torch.bfloat16, grad=True)}, "efficient"),
        ({"dtype": torch.float32}, "efficient"),
        ({"head": 12}, "flash"),
        ({"head": 512}, "efficient"),
    ],
)
def test_hopper_prefers_cudnn_in_16_bit(options, kernel):
    """sdp_utils.cpp, check_prefer_cudnn_attention and can_use_cudnn_attention."""
    assert any(kernel in name for name, _ in run_attention("h100", **options))


def test_cudnn_keeps_its_output_a_log_sum_exp_and_the_random_state_on_the_device():
    """attention.cu, _cudnn_attention_forward; MHA.cpp, run_cudnn_SDP_fprop."""
    assert [size for _, size in run_attention("h100")] == [
        8,
        8,
        2 * 4 * 160 * 64 * 2,
        2 * 4 * 160 * 4,
    ]


def test_cudnn_backward_sums_the_querys_gradient_in_fp32():
    """cudnn_frontend, scaled_dot_product_flash_attention.h: dQ's sum, and one sum a query."""
    sizes = [
        size
        for name, size in run_attention("h100", backward=True)
        if "cudnn_attention_backward" in name
    ]
    gradient = 2 * 4 * 160 * 64
    assert sizes == [gradient * 2] * 3 + [gradient * 4 + 2 * 4 * 160 * 4]


# --- flash ----------------------------------------------------------------------------------------


def flash(queries, keys, **options):
    query, key = (meta(1, 2, n, 64, dtype=torch.bfloat16, grad=True) for n in (queries, keys))
    with CudaKernels(), Ledger(card=CARDS["a100-80gb"]) as ledger:
        F.scaled_dot_product_attention(query, key, key, **options)
    return [size for _, size in made(ledger)]


def test_flash_splits_keys_among_blocks_where_queries_are_few():
    """flash_api.cpp, num_splits_heuristic: one query of 2 heads, 2,048 keys in 8 blocks of 256.

    2 blocks for 216 places: 8 splits fill most. Each has a log-sum-exp and an output in fp32.
    """
    assert flash(1, 2048) == [2 * 64 * 2, 2 * 4, 8 * 2 * 4, 8 * 2 * 64 * 4, 16, 8]


def test_flash_splits_nothing_where_it_drops():
    """flash_api.cpp, set_params_splitkv: not with dropout; the random state is 16 bytes."""
    assert flash(1, 2048, dropout_p=0.1) == [2 * 64 * 2, 2 * 4, 16, 8, 16]


def test_flash_backward_copies_a_gradient_that_lies_otherwise():
    """flash_api.cpp, mha_bwd: the gradient of [B, H, S, K] is wanted as [B, S, H, K]."""
    query = meta(1, 2, 160, 64, dtype=torch.bfloat16, grad=True)
    with CudaKernels(), Ledger() as ledger:
        out = F.scaled_dot_product_attention(query, query, query)
        before = len(ledger.sizes)
        out.backward(meta(1, 2, 160, 64, dtype=torch.bfloat16))
    assert ledger.sizes[before] == out.nbytes
    assert ledger.sizes[before + 1 : before + 4] == [out.nbytes] * 3


# --- memory-efficient -----------------------------------------------------------------------------


def test_memory_efficient_sums_wide_heads_in_fp32():
    """attention.cu, _efficient_attention_forward: output accumulators beyond 128 in 16 bit."""
    calls = run_attention(head=512)
    assert [size for _, size in calls] == [
        2 * 4 * 160 * 512 * 2,
        2 * 4 * 160 * 4,
        2 * 4 * 160 * 512 * 4,
    ]


def efficient_backward(card, dtype, head, **options):
    """Of [2, 4, 160, head] under a mask: what comes after the three gradients."""
    mask = meta(160, 160, dtype=dtype)
    calls = run_attention(card, dtype=dtype, head=head, attn_mask=mask, backward=True, **options)
    sizes = [size for name, size in calls if "efficient_attention_backward" in name]
    item = torch.empty((), dtype=dtype).element_size()
    assert sizes[:3] == [2 * 4 * 160 * head * item] * 3
    return sizes[3:]


def test_memory_efficient_backward_in_16_bit_has_its_delta_and_a_workspace():
    """kernel_backward.h, workspace_elements_gq: 3 blocks of 64 queries by 1 of 64 columns, each
    64 x 64 sums and 4 words to lock them, fp32; gradients of keys stay in registers.
    """
    assert efficient_backward("a100-80gb", torch.bfloat16, 64) == [
        2 * 4 * 160 * 4,
        2 * 4 * 3 * (64 * 64 + 4) * 4,
    ]


def test_memory_efficient_backward_in_fp32_multiplies_gradient_and_output():
    """attention_backward.cu: (grad * out).sum(-1), and once more with heads before queries."""
    queries = 2 * 4 * 160 * 4
    assert efficient_backward("a100-80gb", torch.float32, 64) == [
        *(queries * 64, queries, queries),
        2 * 4 * 3 * (64 * 64 + 4) * 4,
    ]


@pytest.mark.parametrize(
    ("card", "block_words"),
    [
        # 2 blocks of 128 queries by 1 of 128 columns.
        ("a100-80gb", 2 * (128 * 128 + 4)),
        # 3 blocks of 64 queries by 2 of 64 columns; and keys' and values' gradients, 128 wide, are
        # wider than 64 queries: 3 splits of 64 keys x 256.
        ("a6000", 3 * 2 * (64 * 64 + 4) + 3 * 64 * 256),
        # 2 blocks of 128 queries by 2 of 64 columns.
        ("t4", 2 * 2 * (128 * 64 + 4)),
    ],
)
def test_memory_efficient_backward_tiles_go_with_shared_memory(card, block_words):
    """kernels/cutlassB.h, dispatch_cutlassB: heads of 128 in 16 bit."""
    assert efficient_backward(card, torch.float16, 128)[-1] == 2 * 4 * block_words * 4


def test_a_trained_mask_has_a_gradient_of_padded_rows():
    """attention_backward.cu, _efficient_attention_backward: rows a multiple of 16; T5's biases."""
    ledger = Ledger()
    query, key = (meta(2, 3, n, 8, grad=True) for n in (5, 7))
    mask = meta(2, 3, 5, 7, grad=True)
    with CudaKernels(), ledger:
        F.scaled_dot_product_attention(query, key, key, attn_mask=mask).sum().backward()
    sizes = [size for name, size in made(ledger) if "efficient_attention_backward" in name]
    assert sizes[3] == 2 * 3 * 5 * 16 * 4
