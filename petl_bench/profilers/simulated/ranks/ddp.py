"""One rank under DistributedDataParallel: torch's own wrapper and reducer, on meta tensors.

So buckets are of the reducer's making (torch/csrc/distributed/c10d/reducer.cpp): one for all at
first, since they are made anew after the first step in the order in which gradients came, of 1 MiB
and then of 25 MiB. Parameters and buffers are broadcast in flat copies when the model is wrapped,
and buffers before every forward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import distributed

from petl_bench.assembly import Trainee
from petl_bench.case import Workload
from petl_bench.errors import UsageError
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.ranks.world import pretended_world
from petl_bench.record import Category


@contextmanager
def wrapped(ledger: Ledger, trainee: Trainee, workload: Workload) -> Iterator[Trainee]:
    """Inside, `trainee` is one of the workload's ranks; what wrapping allocates is in `ledger`.

    Raises:
        UsageError: a parameter that trains takes no part in a step.
    """
    assert workload.world_size is not None
    with (
        pretended_world(workload.world_size),
        # It compares shapes, and so values, that the other ranks have.
        patch.object(distributed, "_verify_param_shape_across_processes", lambda *_: True),
    ):
        with ledger:
            model = nn.parallel.DistributedDataParallel(
                trainee.model, gradient_as_bucket_view=workload.gradient_as_bucket_view
            )
        model.register_comm_hook(ledger, _reduced)
        try:
            yield replace(trainee, model=model)
        except RuntimeError as error:
            if not str(error).startswith("Expected to have finished reduction"):
                raise
            raise UsageError(
                "parallel: ddp waits for the gradients of all that trains, and some get none"
            ) from None


def _reduced(ledger: Ledger, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """In place of the all-reduce, which works in the bucket's own memory."""
    ledger.label([bucket.buffer()], Category.GRADIENT)
    result: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    result.set_result(bucket.buffer())
    return result
