"""A process group of which this process is the first rank, and the others are pretended."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from petl_bench.errors import UsageError


@contextmanager
def pretended_world(size: int) -> Iterator[None]:
    """Inside, torch.distributed believes that there are `size` ranks; collectives do nothing.

    The first rank is the one that holds most, where a tensor does not divide evenly.

    Raises:
        UsageError: this process is a rank already.
    """
    from torch.testing._internal.distributed.fake_pg import (  # noqa: PLC0415 - registers a backend
        FakeStore,
    )

    if dist.is_initialized():
        raise UsageError(
            "parallel: this process is one of several ranks; simulate in one that is not"
        )
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
