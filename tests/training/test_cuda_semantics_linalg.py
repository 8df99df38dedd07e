"""What transforms, systems of equations, masks and sparse tensors borrow on CUDA, by hand."""

import pytest
import torch

from petl_bench.cards import CARDS
from petl_bench.profilers.simulated.cuda_semantics import block_diagonal
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.values import masks_choose_all
from petl_bench.record import Category


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def made(run, *inputs):
    """Sizes in the order in which they are allocated, on an A100."""
    ledger = Ledger(card=CARDS["a100-80gb"])
    ledger.adopt(inputs, Category.INPUT)
    seen = len(ledger.sizes)
    with masks_choose_all(), ledger:
        run(*inputs)
    return ledger.sizes[seen:]


COMPLEX = 8  # bytes


def test_a_transform_of_rows_makes_its_result_alone():
    """SpectralOps.cpp, _fft_r2c_cufft: 100 real numbers are 51 complex ones."""
    assert made(torch.fft.rfft, meta(6, 100)) == [6 * 51 * COMPLEX]


def test_a_transform_of_a_matrix_goes_by_a_second_buffer():
    """use_optimized_cufft_path: not where the dimensions are the first two."""
    size = 8 * 9 * COMPLEX
    assert made(torch.fft.rfft2, meta(8, 16)) == [size, size]
    assert made(torch.fft.rfft2, meta(3, 8, 16)) == [3 * size]


def test_an_inverse_transform_copies_what_it_may_overwrite():
    """_fft_c2r_cufft; then the scale is multiplied in place."""
    spectrum = meta(6, 51, dtype=torch.complex64)
    assert made(torch.fft.irfft, spectrum) == [6 * 100 * 4, 6 * 51 * COMPLEX]


def test_a_transform_copies_dimensions_that_cannot_be_one():
    """_exec_fft, reshape: three of four rows are a stretch, and the next three another one."""
    whole = meta(2, 3, 4, 5, dtype=torch.complex64)
    size = 2 * 3 * 3 * 5 * COMPLEX
    assert made(torch.fft.fft, whole[:, :, :3]) == [size, size]
    assert made(torch.fft.fft, whole.transpose(0, 1)) == [2 * 3 * 4 * 5 * COMPLEX]


def solved(batch, n, *, left):
    """What a system of as many right-hand sides as unknowns borrows beside its results."""
    a = meta(batch, n, n)
    sizes = made(lambda a, b: torch.linalg.solve_ex(a, b, left=left), a, meta(batch, n, n))
    matrix = batch * n * n * 4
    results = [matrix, matrix, batch * n * 4, batch * 4]  # with factors, pivots and flags
    assert sizes[:4] == results
    return sizes[4:]


def test_small_systems_are_cublas_own():
    """lu_factor and lu_solve_kernel, up to 16 unknowns: where matrices lie, by pointers."""
    assert solved(384, 8, left=False) == [384 * 8] * 3
    assert solved(1, 8, left=False) == [8] * 2


def test_larger_systems_are_permuted_and_solved_twice():
    """lu_solve_triangular. From the right a row-major matrix is solved as it stands."""
    n, batch = 32, 10
    permutation, permuted = batch * n * 8, batch * n * n * 4
    assert solved(batch, n, left=True) == [batch * 8, permutation, permuted]
    backwards = [batch * 8, permutation, n * 8, permutation, permuted]
    assert solved(batch, n, left=False) == backwards


def test_a_mask_is_the_coordinates_of_what_it_chooses():
    """IndexingUtils.h, expandTensors; Nonzero.cu: a count, then [2, 12] in int64."""
    mask = meta(3, 4, dtype=torch.bool)
    assert made(lambda x, m: x[m], meta(3, 4), mask) == [4, 2 * 12 * 8, 12 * 4]
    assert made(lambda x, m: x[:, m], meta(5, 4), meta(4, dtype=torch.bool)) == [
        4,
        4 * 8,
        5 * 4 * 4,
    ]
    assert made(lambda m: m.nonzero(), mask) == [4, 2 * 12 * 8]


def test_what_is_written_by_a_mask_needs_them_too_but_a_number_only_fills():
    """TensorAdvancedIndexing.cpp, canDispatchToMaskedFill."""
    x, mask = meta(3, 4), meta(3, 4, dtype=torch.bool)
    assert made(lambda x, m, v: x.index_put_((m,), v), x, mask, meta(12)) == [4, 2 * 12 * 8]
    assert made(lambda x, m: x.index_put_((m,), torch.tensor(0.5)), x, mask) == []


def test_accumulating_by_a_mask_sorts_its_coordinates():
    """Indexing.cu, index_put_with_sort_kernel, of rows and columns."""
    x, mask = meta(3, 4), meta(3, 4, dtype=torch.bool)
    sizes = made(lambda x, m, v: x.index_put_((m,), v, accumulate=True), x, mask, meta(12))
    assert sizes == [4, 2 * 12 * 8, *[12 * 8] * 4, *[12 * 8] * 3, 1]


def coordinates(n, dtype=torch.float32):
    indices, values = meta(2, n, dtype=torch.int64), meta(n, dtype=dtype)
    return torch.sparse_coo_tensor(indices, values, (64, 32), check_invariants=False)


def test_adding_a_sparse_tensor_borrows_one_number_a_coordinate():
    """SparseCUDATensorMath.cu, add_out_dense_sparse_cuda."""
    assert made(lambda x, s: x.add_(s), meta(64, 32), coordinates(100)) == [100 * 8]


def test_adding_it_to_16_bits_goes_by_fp32():
    """Likewise: the sum and what is added to, both dense."""
    x = meta(64, 32, dtype=torch.bfloat16)
    assert made(lambda x, s: x.add_(s), x, coordinates(100)) == [64 * 32 * 4] * 2 + [100 * 8]


def test_coalescing_sorts_coordinates():
    """SparseCUDATensor.cu, _coalesce_sparse_cuda; 100 are one tile of cub's, 2 partitions."""
    long = 100 * 8
    sort = 256 + 1024 + 1024 + 255
    unique = 768 + 255 + 1 + 255
    results = [100 * 4, 2 * long]
    assert made(torch.Tensor.coalesce, coordinates(100)) == [*[long] * 3, sort, unique, *results]


def test_masking_gathers_and_multiplies():
    """SparseTensorMath.cpp, intersection_binary_op_sparse_dense_out, by an expanded one."""
    sizes = made(lambda x, s: x.sparse_mask(s), meta(64, 32), coordinates(100))
    assert sizes == [4, 100 * 4, 2 * 100 * 8, 100 * 4]


@pytest.mark.parametrize("turned", [False, True])
def test_gradients_of_blocks_are_views_of_the_matrixs(turned):
    """FunctionsManual.cpp, block_diag_backward, which takes a slice for each."""
    blocks = torch.rand(3, 2, 4, requires_grad=True)
    factor = torch.rand(12, 6).t() if turned else torch.rand(6, 12)
    found = [
        torch.autograd.grad((diagonal(*blocks.unbind()) * factor).sum(), blocks)[0]
        for diagonal in (torch.block_diag, block_diagonal)
    ]
    assert torch.equal(*found)
    parts = meta(3, 2, 4).requires_grad_()
    matrix, part = 4 * 6 * 12, 4 * 3 * 2 * 4

    def run(parts):
        block_diagonal(*parts.unbind()).backward(meta(6, 12))

    assert made(run, parts) == [matrix, matrix, part]
