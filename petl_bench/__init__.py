"""petl-bench: what a fine-tuning method costs, before you rent the GPU."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petl_bench.api import compare, measure, read, run, simulate, to_frame
    from petl_bench.own.footprint import Footprint
    from petl_bench.own.recording import MemoryCallback
    from petl_bench.suite import Suite

__version__ = "0.1.0"

__all__ = [
    "Footprint",
    "MemoryCallback",
    "Suite",
    "compare",
    "measure",
    "read",
    "run",
    "simulate",
    "to_frame",
]

_HOMES = {
    "Footprint": "petl_bench.own.footprint",
    "MemoryCallback": "petl_bench.own.recording",
    "Suite": "petl_bench.suite",
}


def __getattr__(name: str) -> Any:
    """Names of `__all__` are imported when they are first asked for: `--help` needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - likewise

    return getattr(import_module(_HOMES.get(name, "petl_bench.api")), name)
