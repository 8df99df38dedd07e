"""Processors by name: what an estimate of a step's time needs to know of a CPU.

One thread each, and times alone: a CPU has no caching allocator, so no memory is simulated for it.
CPUs of one name differ by clock, memory and host, so an entry says where its rates were timed; any
other machine is timed where it stands (`profilers/simulated/calibration.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from petl_bench.errors import UsageError, hint

HERE = "here"
"""The processor that this runs on, timed when it is asked for."""


class Kind(StrEnum):
    """What an element costs a CPU beside its bytes; a GPU has lanes enough."""

    PLAIN = "plain"
    RANDOM = "random"  # a random number
    EXPONENTIAL = "exponential"  # exp, and what is made of one: softmax, sigmoid
    ERROR_FUNCTION = "error_function"  # erf, of gelu
    TANH = "tanh"
    ROOT = "root"
    CHOICE = "choice"  # by a mask
    STRIDED = "strided"  # read across the order in which it lies


@dataclass(frozen=True, kw_only=True)
class Processor:
    """One thread of a CPU, by rates that were timed on it with programs that know no model.

    No memory is new to its process: see docs/speed.md.
    """

    name: str
    title: str
    flops_per_s: float  # of a large product
    pack_s: float  # an element of a product's factors
    bytes_per_s: float  # of sums of tensors that have left the caches, as a step's mostly have
    launch_s: float  # a small operator with the views, Python and autograd around it
    element_s: Mapping[Kind, float]


PROCESSORS = {
    each.name: each
    for each in (
        Processor(
            name="epyc-zen5",
            # In a virtual machine of two cores; its rates.json: benchmarks/reference/cpu-epyc-zen5
            title="AMD EPYC, family 26 model 2 (Zen 5)",
            flops_per_s=91e9,
            pack_s=2.4e-10,
            bytes_per_s=30.6e9,
            launch_s=5.2e-6,
            element_s={
                Kind.RANDOM: 4.9e-9,
                Kind.EXPONENTIAL: 6.6e-10,
                Kind.ERROR_FUNCTION: 1.1e-9,
                Kind.TANH: 2.3e-9,
                Kind.ROOT: 3.9e-10,
                Kind.CHOICE: 4.0e-9,
                Kind.STRIDED: 9.1e-10,
            },
        ),
    )
}


def find(name: str) -> Processor:
    """The processor called `name`.

    Raises:
        UsageError: no such processor.
    """
    if name in PROCESSORS:
        return PROCESSORS[name]
    raise UsageError(f"on: no CPU {name!r}; {hint(name, (HERE, *PROCESSORS))}")
