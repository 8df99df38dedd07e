"""How long a step takes on a CPU, estimated: its operators are the CPU's own, not CUDA's."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils import _foreach_utils

from petl_bench.assembly import assemble, make_batch
from petl_bench.case import Case
from petl_bench.processors import Processor
from petl_bench.profilers.cuda import NoProfiler
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.machines import Cpu
from petl_bench.profilers.simulated.profiler import META, no_collection
from petl_bench.profilers.simulated.recomputation import modes_in_recomputation
from petl_bench.profilers.simulated.roofline import Roofline
from petl_bench.profilers.simulated.values import masks_choose_all
from petl_bench.record import RooflineEstimate
from petl_bench.steps import Step


def step_time(case: Case, processor: Processor) -> RooflineEstimate:
    """Seconds of one step of `case` on `processor`, after its warm-up.

    Raises:
        UsageError: the method does not go with the backbone.
    """
    roofline = Roofline(Cpu(processor))
    step, batch = Step(assemble(case, META).model, case.workload), make_batch(case, META)
    ledger = Ledger(cuda=False)
    with no_collection(), masks_choose_all(), modes_in_recomputation(), _clipped_at_once(), ledger:
        for number in range(case.workload.unsteady_steps + 1):
            if number == case.workload.unsteady_steps:
                ledger.on_operator = roofline.add
            step.run(batch, NoProfiler())
    return roofline.estimate()


@contextmanager
def _clipped_at_once() -> Iterator[None]:
    """Gradients are clipped in foreach form, as on the CPU; its optimizers have loops there, too.

    torch/utils/_foreach_utils.py, _device_has_foreach_support.
    """
    supports = _foreach_utils._device_has_foreach_support

    def has_support(device: torch.device) -> bool:
        return device == META or supports(device)

    with patch.object(_foreach_utils, "_device_has_foreach_support", has_support):
        yield
