"""Recipes: what an operator's CUDA kernels allocate and free, in their order.

Most operators allocate their results and nothing else, in the order in which they return them.
Those that do otherwise on CUDA have a recipe. Order matters: the caching allocator puts a block
where the ones before it left room.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from petl_bench.cards import Card


class Free(NamedTuple):
    """The end of scratch: of the scratch that is left, the one at this place."""

    place: int = -1  # the newest


class Sized(NamedTuple):
    """A result whose storage is larger than its elements."""

    tensor: torch.Tensor
    size_bytes: int


Step = torch.Tensor | Sized | int | Free
"""A result; bytes of scratch; or the end of one. What scratch is left at the end of a recipe goes
newest first, as locals of a C++ function do."""

FREE = Free()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operator that has been run on tensors without data."""

    card: Card
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at `position`, or by its name, or its default."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


Recipe = Callable[[Call], Iterator[Step]]


def tensors(out: Any) -> Iterator[torch.Tensor]:
    """The tensors that an operator returned, in order."""
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, (tuple, list)):
        for item in out:
            if isinstance(item, torch.Tensor):
                yield item


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `number`."""
    return -(-number // multiple) * multiple


def ceil_div(number: int, by: int) -> int:
    """`number / by`, rounded up."""
    return -(-number // by)
