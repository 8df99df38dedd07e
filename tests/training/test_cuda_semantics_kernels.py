"""What norms, losses, softmaxes and sums borrow on CUDA, added up by hand; an A100 unless said."""

import pytest
import torch
from torch.nn import functional as F

from petl_bench.cards import CARDS
from petl_bench.profilers.simulated.cuda_semantics import CudaKernels
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category

A100 = CARDS["a100-80gb"]


def meta(*shape, dtype=torch.float32, grad=False):
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


def stream(run, *inputs, card=A100):
    """Sizes as they are allocated, and minus sizes as they are freed, of what `run` makes."""
    ledger = Ledger(card=card)
    ledger.adopt(inputs, Category.INPUT)
    with CudaKernels(card), ledger:
        kept = run(*inputs)
    seen = [ledger.sizes[e] if e >= 0 else -ledger.sizes[~e] for e in ledger.events[len(inputs) :]]
    del kept
    return seen


def borrowed(*sizes):
    """Allocated in order, freed newest first."""
    return [*sizes, *(-size for size in reversed(sizes))]


# --- norms ----------------------------------------------------------------------------------------


def test_rms_norm_is_one_kernel_that_keeps_a_root_a_row():
    """layer_norm.cpp, rms_norm_symint; layer_norm_kernel.cu, _fused_rms_norm_cuda."""
    x, weight = meta(4, 8, 64, dtype=torch.bfloat16, grad=True), meta(64, dtype=torch.bfloat16)
    made = stream(lambda x, w: F.rms_norm(x, [64], w).grad_fn, x, weight)
    assert made[:2] == [4 * 8 * 64 * 2, 4 * 8 * 4]


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_rms_norm_of_two_types_is_taken_apart():
    """layer_norm.cpp, rms_norm_symint: the weight of another type rules the kernel out."""
    x, weight = meta(4, 64, dtype=torch.bfloat16), meta(64)
    made = stream(lambda x, w: F.rms_norm(x, [64], w), x, weight)
    assert 4 * 64 * 4 in made  # the input in fp32


def layer_norm_backward(rows, width=8):
    x, weight = meta(rows, width), meta(width)
    statistics = meta(rows, 1)
    return stream(
        lambda x, weight, mean: torch.ops.aten.native_layer_norm_backward(
            x, x, [width], mean, mean, weight, weight, [True, True, True]
        ),
        x,
        weight,
        statistics,
    )


def test_layer_norm_backward_makes_three_gradients():
    assert layer_norm_backward(65_536) == [65_536 * 8 * 4, 8 * 4, 8 * 4]


def test_layer_norm_backward_of_many_narrow_rows_sums_in_two_steps():
    """layer_norm_kernel.cu, LaunchGammaBetaBackwardCUDAKernel: 65,568 rows are 2,049 parts of 32.

    Each gradient, 32 bytes, is made, and again by `sum(0)` of its parts, which takes its place.
    That sum: 8 outputs are 2 vectors of 4, so blocks of 2 x 64 threads; 2,049 values over 64 are 33
    a thread, too few to split among blocks.
    """
    parts = 2049 * 8 * 4
    assert layer_norm_backward(65_568) == [
        65_568 * 8 * 4,
        *(32, 32, parts, parts),
        *(32, -32, 32, -32),
        *(-parts, -parts),
    ]


def test_group_norm_borrows_a_factor_and_a_summand_a_channel():
    """group_norm_kernel.cu, GroupNormKernelImplInternal; 16 bit: statistics in fp32 first."""
    x, weight = meta(2, 6, 10, dtype=torch.bfloat16), meta(6, dtype=torch.bfloat16)
    made = stream(
        lambda x, w: torch.ops.aten.native_group_norm(x, w, w, 2, 6, 10, 3, 1e-5), x, weight
    )
    statistics, channels = 2 * 3, 2 * 6
    assert made == [
        *(x.nbytes, statistics * 2, statistics * 2),
        *borrowed(statistics * 4, statistics * 4, channels * 4, channels * 4),
    ]


def test_group_norm_backward_sums_channels_and_groups():
    """group_norm_kernel.cu, GroupNormBackwardKernelImplInternal."""
    x, weight, statistics = meta(2, 6, 10), meta(6), meta(2, 3)
    made = stream(
        lambda x, weight, mean: torch.ops.aten.native_group_norm_backward(
            x, x, mean, mean, weight, 2, 6, 10, 3, [True, True, True]
        ),
        x,
        weight,
        statistics,
    )
    channels, groups = 2 * 6 * 4, 2 * 3 * 4
    assert made == [
        *(x.nbytes, 6 * 4, 6 * 4),
        *(channels, channels, groups, groups, channels),
        *(-groups, -groups, -channels, -channels, -channels),
    ]


# --- softmax and losses ---------------------------------------------------------------------------


def test_safe_softmax_looks_for_rows_that_are_masked():
    """attention.cpp, _safe_softmax: which are -inf, rows that are all so, a zero."""
    made = stream(lambda x: torch._safe_softmax(x, -1), meta(3, 5))
    assert made == [3 * 5 * 4, *borrowed(3 * 5, 3, 4)]


def test_cross_entropy_keeps_log_probabilities_and_no_copy_of_fp32_logits():
    """LossNLL.cpp, cross_entropy_loss: log_softmax, and nll_loss with its total weight."""
    logits = meta(6, 100, grad=True)
    made = stream(F.cross_entropy, logits, torch.empty(6, dtype=torch.long, device="meta"))
    assert made == [6 * 100 * 4, 4, 4]


def test_cross_entropy_backward_makes_the_gradient_twice():
    """Loss.cu, nll_loss_backward; SoftMax.cu, log_softmax_backward: of the loss and of logits."""
    logits, target = meta(6, 100, grad=True), torch.empty(6, dtype=torch.long, device="meta")
    made = stream(lambda x, t: F.cross_entropy(x, t).backward(), logits, target)
    size = 6 * 100 * 4
    assert made.count(size) == 1 + 2


def test_nll_loss_backward_writes_out_an_expanded_gradient():
    """Loss.cu, nll_loss_backward_out_cuda_template, expect_contiguous."""
    logits, target = meta(6, 100), torch.empty(6, dtype=torch.long, device="meta")
    made = stream(
        lambda x, t, g: torch.ops.aten.nll_loss_backward(g.expand(6), x, t, None, 0, -100, g),
        logits,
        target,
        meta(()),
    )
    assert made == [6 * 100 * 4, *borrowed(6 * 4)]


@pytest.mark.parametrize(("reduction", "scratch"), [("mean", borrowed(6 * 3 * 4)), ("none", [])])
def test_mse_loss_holds_one_number_an_element(reduction, scratch):
    """Loss.cpp, mse_loss_out: its result is first made for all elements, and does not shrink."""
    x = meta(6, 3)
    made = stream(lambda x: F.mse_loss(x, x.detach(), reduction=reduction), x)
    assert made == [6 * 3 * 4, *scratch]


def test_binary_cross_entropy_takes_the_log_of_the_sigmoid():
    """Loss.cpp, binary_cross_entropy_with_logits: log_sigmoid, one loss an element, the mean."""
    x = meta(6, 3)
    made = stream(lambda x: F.binary_cross_entropy_with_logits(x, x.detach()), x)
    assert made == [72, 72, 4, -72, -72]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", [F.gelu, F.silu, torch.tanh])
def test_activations_are_one_kernel(function, dtype):
    """ActivationGeluKernel.cu, ActivationSiluKernel.cu, UnaryGeometricTanhKernel.cu."""
    x = meta(4, 8, dtype=dtype, grad=True)
    made = stream(lambda x: function(x).backward(torch.empty_like(x)), x)
    assert sorted(size for size in made if size > 0) == [x.nbytes] * 3  # result, its gradient, x's


# --- products and convolutions --------------------------------------------------------------------


def test_a_product_of_rows_and_columns_copies_nothing():
    """Blas.cpp, prepare_matrix_for_cublas: rows, columns, and rows cut out of wider ones."""
    rows = meta(6, 8)
    assert stream(lambda x: x @ x.T, rows) == [6 * 6 * 4]
    assert stream(lambda x: x[:, :3] @ x[:, :3].T, rows) == [6 * 6 * 4]


def test_a_product_copies_what_is_neither():
    """Blas.cpp, prepare_matrix_for_cublas: an expanded gradient, and every second column."""
    made = stream(lambda x: x.sum().expand(6, 6) @ x[:, ::2], meta(6, 8))
    assert made == [4, 6 * 4 * 4, *borrowed(6 * 6 * 4, 6 * 4 * 4), -4]


def test_products_of_batches_copy_likewise():
    """Blas.cpp, prepare_batch_matrix_for_cublas: each second column of a batch."""
    assert stream(lambda x: x[..., ::2] @ x[..., ::2, :], meta(2, 6, 6)) == [
        2 * 6 * 6 * 4,
        *borrowed(2 * 6 * 3 * 4),
    ]


def test_a_linear_layer_adds_its_bias_as_it_writes():
    """Blas.cpp, addmm_out_cuda_impl: an epilogue of cuBLASLt's, or copied into the result."""
    assert stream(F.linear, meta(4, 6, 8), meta(5, 8), meta(5)) == [4 * 6 * 5 * 4]


@pytest.mark.parametrize(("trains", "copies"), [(False, []), (True, [4 * 6 * 8 * 4])])
def test_a_linear_layer_of_a_transposed_input_adds_its_bias_in_place(trains, copies):
    """Linear.cpp, linear: no second result for the bias, as under a mode (isTensorSubclassLike).

    LinearAlgebra.cpp, should_fold: with a weight that trains the input is copied and folded to two
    dimensions; with a frozen one it is a batch.
    """
    weight = meta(5, 8, grad=trains)
    made = stream(lambda x, w, b: F.linear(x.transpose(0, 1), w, b), meta(6, 4, 8), weight, meta(5))
    assert [size for size in made if size > 0] == [*copies, 4 * 6 * 5 * 4]


def test_a_convolution_makes_its_result():
    """Convolution.cpp, _convolution: a bias is added in place; cuDNN's workspace is not known."""
    x, weight, bias = meta(2, 3, 32, 32), meta(16, 3, 4, 4), meta(16)
    assert stream(lambda *a: F.conv2d(*a, stride=4), x, weight, bias) == [2 * 16 * 8 * 8 * 4]


def test_convolution_backward_makes_gradients_and_sums_the_biases():
    """ConvShared.cpp, cudnn_convolution_backward: 128 elements a channel are not split.

    Patches of 4 x 4, as a vision transformer embeds them; the images need no gradient. A gradient
    that lies as [B, W, C, H] is copied.
    """
    weight_and_bias = [16 * 3 * 4 * 4 * 4, 16 * 4]
    assert convolution_backward(meta(2, 16, 8, 8)) == weight_and_bias
    gradient = 2 * 16 * 8 * 8 * 4
    assert convolution_backward(meta(2, 8, 16, 8).permute(0, 2, 3, 1)) == [
        gradient,
        *weight_and_bias,
        -gradient,
    ]


def convolution_backward(grad):
    return stream(
        lambda grad, x, weight: torch.ops.aten.convolution_backward(
            grad, x, weight, [16], [4, 4], [0, 0], [1, 1], False, [0, 0], 1, [False, True, True]
        ),
        grad,
        meta(2, 3, 32, 32),
        meta(16, 3, 4, 4),
    )


# --- clipping -------------------------------------------------------------------------------------


def test_norms_of_a_list_sum_pieces_first():
    """ForeachReduceOp.cu, foreach_tensor_norm_cuda: 2 tensors, 3 pieces of 65,536 in the larger."""
    made = stream(lambda x, y: torch._foreach_norm([x, y]), meta(131_073), meta(5))
    assert made == [2 * 3 * 4, 4, 4, -2 * 3 * 4]


# --- sums, whose parts are split among blocks -----------------------------------------------------


def test_a_biases_gradient_sums_parts_of_many_rows():
    """Reduce.cuh, setReduceConfig: [12800, 768] over its rows, contiguous fp32.

    Outputs are read as 192 vectors of 4, so 128 threads a block: 32 across outputs, 4 down rows.
    6 blocks cover the outputs, and 108 multiprocessors hold 16 each: 288 blocks a column. A thread
    has 3,200 rows, and is to have 16 at least: 200 blocks, which is fewer. global_memory_size asks
    for 768 x 200 parts of 4 bytes, times the 128 outputs of a block; and 6 semaphores.
    """
    made = stream(lambda x: x.sum(0), meta(12_800, 768))
    assert made == [768 * 4, *borrowed(4 * 768 * 200 * 128, 6 * 4)]


def test_a_t4_splits_them_as_it_has_fewer_multiprocessors():
    """Reduce.cuh: 40 x 8 blocks over 6 are 54 a column."""
    made = stream(lambda x: x.sum(0), meta(12_800, 768), card=CARDS["t4"])
    assert made == [768 * 4, *borrowed(4 * 768 * 54 * 128, 6 * 4)]


def test_a_sum_over_everything_splits_one_row():
    """Reduce.cuh: 2^20 elements along the row, 4 a load, 512 threads: 2,048 a thread.

    108 x 4 blocks could be there, 128 are enough for 16 a thread; 128 parts of 4 bytes.
    """
    made = stream(lambda x: x.sum(), meta(1024, 1024))
    assert made == [4, *borrowed(4 * 128, 4)]


def test_integers_are_summed_in_8_bytes():
    """ReduceSumProdKernel.cu: as above, in the result's type."""
    counts = torch.empty(1024, 1024, dtype=torch.long, device="meta")
    assert stream(lambda x: x.sum(), counts) == [8, *borrowed(8 * 128, 4)]


def test_few_rows_are_summed_in_one_block():
    """Reduce.cuh: 200 rows over 4 threads are 50 a thread, less than 256."""
    assert stream(lambda x: x.sum(0), meta(200, 768)) == [768 * 4]


def test_what_lies_along_the_sum_is_split_along_it():
    """Reduce.cuh: the same sum of a transposed [768, 12800]; 512 threads a column have 25 each."""
    assert stream(lambda x: x.T.sum(0), meta(768, 12_800)) == [768 * 4]


def test_kept_dimensions_stay_in_the_results_order():
    """TensorIterator.cpp, reorder_dimensions: [12800, 8, 96] whose last two are swapped in memory.

    The fastest kept dimension is the result's, of 96 elements that lie 8 apart, so nothing is
    loaded as vectors: 32 x 16 threads a block, 24 blocks, 800 rows a thread. 432 places over 24 are
    18 a column.
    """
    made = stream(lambda x: x.transpose(1, 2).sum(0), meta(12_800, 96, 8))
    assert made == [768 * 4, *borrowed(4 * 768 * 18 * 32, 24 * 4)]


def test_the_mean_of_squares_of_a_row_needs_no_parts():
    """Reduce.cuh: T5's norm, 768 elements a row: 6 a thread."""
    assert stream(lambda x: x.mean(-1), meta(64, 768)) == [64 * 4]


def test_the_largest_is_found_with_its_place():
    """ReduceMomentKernel and TensorCompare: a part is a value with its index, 16 bytes."""
    made = stream(lambda x: x.argmax(), meta(1024, 1024))
    assert made == [8, *borrowed(16 * 128, 4)]


def test_a_sum_of_ones_is_cast_first():
    """ReduceOpsUtils.h, make_reduction: integers are cast to the result's type before."""
    mask = torch.empty(4, 8, dtype=torch.bool, device="meta")
    assert stream(lambda x: x.sum(), mask) == [8, *borrowed(32 * 8)]


def test_a_large_input_is_summed_in_pieces_of_32_bit_offsets():
    """Reduce.cuh, with_32bit_indexing: 3 GiB are two halves, each with parts of its own.

    A half has 2^23 x 48 elements over 512 threads: 786,432 a thread, so 3,072 blocks of 256.
    """
    made = stream(lambda x: x.sum(), meta(1 << 24, 48))
    assert made == [4, *borrowed(4 * 3072, 4), *borrowed(4 * 3072, 4)]
