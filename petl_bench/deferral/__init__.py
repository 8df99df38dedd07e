"""Code that builds modules, run without data: values are worked out only when they are asked for.

Inside `deferred_values()` every new tensor is a `meta` tensor that says it is on the CPU, so that
code which makes, moves, casts and ties tensors takes the ways that it takes there. How each
storage came to be is kept, and when the code asks a tensor for a value (`.item()`, `nonzero`, any
operator without a meta kernel), the operators that this value rests on, and no others, are run on
the CPU. Weights that were there before count as random. After the scope the tensors are plain
`meta` tensors again.

Tensors made of Python's or numpy's data keep it, since there is no other place for it; they are
small.

pretence     the CPU that is not there, to code that asks
recorder     every operator and where it wrote, as code runs
storages     what state each storage is in
lineage      what a state rests on: operators with their arguments, numbers written one by one
evaluation   questions about values, answered by running what they rest on
operators    what an operator writes, makes and asks for
meta         tensors and models without data
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from petl_bench.deferral.meta import KNOWN, META, without_data
from petl_bench.deferral.pretence import PretendedCPU
from petl_bench.deferral.recorder import Recorder
from petl_bench.garbage import collection_paused

__all__ = ["KNOWN", "deferred_values", "without_data"]


@contextmanager
def deferred_values() -> Iterator[None]:
    """In this scope what code makes on the CPU has no data, but answers questions about it."""
    recorder = Recorder()
    seeding = patch.object(torch, "manual_seed", recorder.seeded(torch.manual_seed))
    with collection_paused(), seeding, recorder, META, PretendedCPU(recorder):
        yield
