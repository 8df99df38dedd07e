"""What embeddings, indexing, sorts and running sums borrow on CUDA, added up by hand."""

import pytest
import torch
from torch.nn import functional as F

from petl_bench.cards import CARDS
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category


def meta(*shape, dtype=torch.float32, grad=False):
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


def ids(n):
    return torch.empty(n, dtype=torch.long, device="meta")


def embedding_backward(tokens, rows, width, dtype=torch.float32):
    """Sizes in the order in which they are allocated, on an A100."""
    table = meta(rows, width, dtype=dtype, grad=True)
    with Ledger(card=CARDS["a100-80gb"]) as ledger:
        F.embedding(ids(tokens), table).backward(meta(tokens, width, dtype=dtype))
    return [
        ledger.sizes[event]
        for event in ledger.events
        if event >= 0 and "embedding_dense" in ledger.operators[event]
    ]


def test_embedding_backward_of_3072_tokens_borrows_nothing():
    """Embedding.cu, embedding_dense_backward_cuda."""
    assert embedding_backward(3072, 1000, 16) == [1000 * 16 * 4]


def test_embedding_backward_of_more_tokens_sorts_them():
    """Embedding.cu, embedding_dense_backward_cuda, and EmbeddingBackwardKernel.cu.

    3,073 tokens, 1,000 rows: at most 1,000 segments and 307 + 1,000 parts. The sort has 8 passes
    of 8 bits; 3,073 keys are one tile of 3,840.
    """
    n = 3073 * 8
    sort = 8 * 256 * 8 + 256 * 4 + 2 * (n + (-n) % 256) + 256 + 255
    assert embedding_backward(3073, 1000, 16) == [
        *(n, n, n, sort),
        1000 * 16 * 4,
        *(n, 8, n),
        # Two tiles of 1,792 keys: 34 descriptors of 16 bytes, 544; aligned, and the whole again.
        768 + 255 + 1 + 255,
        *(8000, 8000),
        # Two tiles of 896 elements: 34 descriptors.
        768 + 255 + 1 + 255,
        8,
        1307 * 8,
        1307 * 16 * 4,
    ]


@pytest.mark.parametrize(("dtype", "sums"), [(torch.float32, []), (torch.bfloat16, [32 * 12 * 4])])
def test_embedding_backward_of_few_rows_adds_parts_at_once(dtype, sums):
    """EmbeddingBackwardKernel.cu, use_fused_kernel: 32 rows are 32 blocks, for 108 x 4 places.

    T5's table of position biases: 128 x 128 places, 1,638 + 32 parts.
    """
    assert embedding_backward(128 * 128, 32, 12, dtype)[-2 - len(sums) :] == [
        1670 * 8,
        1670 * 8,
        *sums,
    ]


def test_embedding_backward_copies_a_gradient_that_lies_otherwise():
    """Embedding.cu, embedding_dense_backward_cuda: T5's biases come as [heads, places]."""
    table = meta(32, 12, grad=True)
    with Ledger() as ledger:
        F.embedding(ids(7), table).backward(meta(12, 7).T)
    made = [n for n, name in zip(ledger.sizes, ledger.operators, strict=True) if "dense" in name]
    assert made == [7 * 12 * 4, 32 * 12 * 4]


def test_accumulating_by_index_sorts_the_indices():
    """Indexing.cu, index_put_with_sort_kernel: offsets, sorted, origins, 0 to n; the sort."""
    assert put(accumulate=True) == [5 * 8] * 5 + [1]


def test_writing_by_index_borrows_nothing():
    assert put(accumulate=False) == []


def put(*, accumulate):
    x, values, rows = meta(10, 3), meta(5, 3), ids(5)
    ledger = Ledger()
    ledger.adopt([x], Category.INPUT)
    with ledger:
        x.index_put_((rows,), values, accumulate=accumulate)
    return ledger.sizes[1:]


def made(run, *inputs):
    """Sizes in the order in which they are allocated, on an A100."""
    ledger = Ledger(card=CARDS["a100-80gb"])
    ledger.adopt(inputs, Category.INPUT)
    with ledger:
        run(*inputs)
    return ledger.sizes[len(inputs) :]


def test_indexing_by_int32_converts_the_indices():
    """TensorAdvancedIndexing.cpp, make_info: the kernel reads int64."""
    indices = torch.empty(5, dtype=torch.int32, device="meta")
    assert made(lambda x, i: x[i], meta(10, 3), indices) == [5 * 8, 5 * 3 * 4]
    assert made(lambda x, i: x[i], meta(10, 3), ids(5)) == [5 * 3 * 4]


def test_indices_that_are_broadcast_are_written_out():
    """TensorAdvancedIndexing.cpp, make_info: a column and a row, each as [4, 5]."""
    column, row = ids(4).unsqueeze(1), ids(5)
    assert made(lambda x, i, j: x[i, j], meta(10, 10), column, row) == [4 * 5 * 8] * 2 + [4 * 5 * 4]


def test_sorting_rows_borrows_their_places():
    """Sort.cpp, sort_cuda_kernel: values, places, and 0, 1, 2, ... of one row."""
    assert made(torch.sort, meta(6, 100)) == [6 * 100 * 4, 6 * 100 * 8, 100 * 8]


def test_sorting_one_long_row_borrows_what_cub_does():
    """Sort.cpp beyond 4,096; dispatch_radix_sort.cuh: 4 passes, tiles of 3,072, second buffers."""
    n = 6144
    cub = 4 * 256 * 8 + 2 * 256 * 4 + n * 4 + n * 8 + 256 + 255
    assert made(torch.sort, meta(n)) == [n * 4, n * 8, n * 8, cub]


def test_running_sums_of_rows_borrow_nothing():
    """ScanKernels.cpp; as RoBERTa counts its places, from int64."""
    assert made(lambda x: x.cumsum(1), torch.empty(4, 8, dtype=torch.long, device="meta")) == [256]


def test_a_running_sum_of_one_row_borrows_what_cub_does():
    """ScanKernels.cpp; dispatch_scan.cuh: 1,000 fp32 are one tile of 1,920, 33 words of 8."""
    assert made(lambda x: x.cumsum(0), meta(1000)) == [4000, 512 + 255 + 1 + 255]
