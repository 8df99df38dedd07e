"""What an operator writes, makes and asks for, told by its schema and its name."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from petl_bench.deferral.meta import CPU, address

aten = torch.ops.aten

_LARGE = 1_000_000  # elements of a matrix


def asks_for_data(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether `func` brings values from the device to the host."""
    if func is aten._to_copy.default:  # noqa: SLF001 - operators' names
        return kwargs.get("device") == CPU
    return func is aten._local_scalar_dense.default  # noqa: SLF001


@cache
def mutated_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that `func` writes to."""
    arguments = enumerate(func._schema.arguments)  # noqa: SLF001 - it has no public name
    return tuple((i, a.name) for i, a in arguments if a.alias_info and a.alias_info.is_write)


def mutated(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that `func` writes to."""
    found: list[torch.Tensor] = []
    for index, name in mutated_arguments(func):
        given = args[index] if index < len(args) else kwargs.get(name)
        found += [leaf for leaf in tree_leaves(given) if torch.is_tensor(leaf)]
    return found


def created(out: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors of `out` that are on storages of their own."""
    given = (leaf for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf))
    seen = {address(tensor.untyped_storage()) for tensor in given}
    found = []
    for leaf in tree_leaves(out):
        if torch.is_tensor(leaf) and (at := address(leaf.untyped_storage())) not in seen:
            seen.add(at)
            found.append(leaf)
    return found


def factorises_large(func: Any, tensors: Iterable[torch.Tensor]) -> bool:
    """Whether `func` takes seconds to factorise a matrix, one of `tensors`."""
    large = any(tensor.numel() > _LARGE for tensor in tensors)
    return large and "linalg" in func.name() and "norm" not in func.name()
