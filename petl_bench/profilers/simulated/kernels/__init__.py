"""What CUDA's kernels allocate, operator by operator, where it is not their results in order.

recipe       what a recipe is
pointwise    dropout, softmax, losses
norms        layer, RMS and group norm
reductions   sums and the like; reduce_kernel: how they are split across thread blocks
matrices     products and convolutions
linear_solve systems of linear equations
fft          Fourier transforms
indexing     embeddings, indexing, sorts, running sums
sparse       sparse tensors of coordinates
cub          temporary storage of sorts and scans
attention    scaled_dot_product_attention: which kernel; attention_scratch: what each borrows
"""

from typing import Any

from petl_bench.profilers.simulated.kernels import (
    attention_scratch,
    fft,
    indexing,
    linear_solve,
    matrices,
    norms,
    pointwise,
    reductions,
    sparse,
)
from petl_bench.profilers.simulated.kernels.recipe import Recipe

RECIPES: dict[Any, Recipe] = {
    **pointwise.RECIPES,
    **norms.RECIPES,
    **reductions.RECIPES,
    **matrices.RECIPES,
    **linear_solve.RECIPES,
    **fft.RECIPES,
    **indexing.RECIPES,
    **sparse.RECIPES,
    **attention_scratch.RECIPES,
}
"""The operators that allocate otherwise on CUDA."""
