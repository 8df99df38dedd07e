"""What runs in an operator's place without data, beside the operator with data."""

import pytest
import torch

from petl_bench.deferral import deferred_values, without_data
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.values import masks_choose_all


def forms(found):
    found = [found] if isinstance(found, torch.Tensor) else found
    return [(t.shape, t.dtype, t.stride(), t.is_sparse) for t in map(dense, found)]


def dense(tensor):
    return tensor._values() if tensor.is_sparse else tensor


INDICES = [[0, 3, 1, 2], [1, 0, 2, 2]]


def coordinates(device, dtype=torch.float32):
    indices = torch.tensor(INDICES, device=device)
    return torch.sparse_coo_tensor(indices, torch.ones(4, dtype=dtype, device=device), (4, 3))


ASKED = {
    "unique": lambda d: torch.arange(5, device=d).unique(),
    "unique places": lambda d: torch.arange(6, device=d).view(2, 3).unique(return_inverse=True),
    "unique counts": lambda d: torch.arange(5, device=d).unique(return_counts=True),
    "blocks": lambda d: torch.block_diag(*torch.ones(4, 2, 3, device=d).unbind()),
    "blocks of other sizes": lambda d: torch.block_diag(
        torch.ones(2, 1, device=d), torch.ones(3, device=d)
    ),
    "stack": lambda d: torch.stack([torch.ones(2, 3, device=d)] * 4, dim=-1),
    "stack of columns": lambda d: torch.stack([torch.ones(2, 3, device=d).t()] * 4, dim=1),
    "coalesced": lambda d: coordinates(d).coalesce(),
    "masked": lambda d: torch.ones(4, 3, device=d).sparse_mask(coordinates(d)),
    "added": lambda d: torch.ones(4, 3, device=d).add_(coordinates(d)),
    "dense": lambda d: coordinates(d).to_dense(),
    "product": lambda d: torch.sparse.mm(coordinates(d), torch.ones(3, 5, device=d)),
    "transposed product": lambda d: coordinates(d).t() @ torch.ones(4, 5, device=d),
}


@pytest.mark.parametrize("asked", ASKED)
def test_its_results_have_the_forms_of_real_ones(asked):
    with Ledger(), masks_choose_all():
        fake = ASKED[asked]("meta")
    assert forms(fake) == forms(ASKED[asked]("cpu"))


def test_what_was_set_up_with_data_is_known_when_a_step_asks():
    module = torch.nn.Module()
    with deferred_values():
        module.register_buffer("size", torch.tensor([5, 7]))
        module.register_buffer("large", torch.arange(1000))
    without_data(module)
    assert module.size.is_meta
    with Ledger():
        assert module.size.tolist() == [5, 7]
        with pytest.raises(NotImplementedError):
            module.large.tolist()
