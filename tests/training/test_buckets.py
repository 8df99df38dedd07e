"""DistributedDataParallel's buckets against torch's own assignment of parameters to them."""

import pytest
import torch
from torch import nn

from petl_bench.training import make_buckets
from petl_bench.units import MIB

MIXED = [(200, 300), (1000, 700), (3,), (4000, 2000), (10,), (2500, 3000), (5, 5)]


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "some fp16"])
def test_buckets_are_torchs(half):
    dist = pytest.importorskip("torch.distributed")
    parameters = [nn.Parameter(torch.empty(shape, device="cpu")) for shape in MIXED]
    if half:
        for parameter in parameters[::2]:
            parameter.data = parameter.data.half()
    model = nn.ParameterList([*parameters, nn.Parameter(torch.ones(7), requires_grad=False)])
    assigned, _ = dist._compute_bucket_assignment_by_size(parameters, [MIB, 25 * MIB])
    expected = sorted(sum(parameters[i].nbytes for i in bucket) for bucket in assigned)
    assert len(expected) > 2
    assert sorted(bucket.nbytes for bucket in make_buckets(model)) == expected


def test_what_is_frozen_has_no_bucket():
    assert make_buckets(nn.Linear(3, 4).requires_grad_(requires_grad=False)) == ()
