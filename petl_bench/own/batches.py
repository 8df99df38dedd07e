"""A batch: tensors or shapes, alone, in a list, or by name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from petl_bench.errors import UsageError

Batch = Any
"""A tensor, a shape such as (8, 128) for float32, or a mapping or sequence of these.

Of a tensor only shape and dtype count where it is simulated."""


def on_meta(batch: Batch) -> Batch:
    """`batch` as tensors without data.

    Raises:
        UsageError: something that is neither a tensor nor a shape.
    """
    return _made(batch, lambda like: torch.empty_like(like, device="meta"))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` on `device`; what has no data gets random numbers, or zeros where it has no floats.

    Raises:
        UsageError: something that is neither a tensor nor a shape.
    """

    def real(like: torch.Tensor) -> torch.Tensor:
        if not like.is_meta:
            return like.to(device)
        make = torch.randn_like if like.dtype.is_floating_point else torch.zeros_like
        return make(like, device=device)

    return _made(batch, real)


def named(batch: Batch) -> dict[str, torch.Tensor]:
    """The tensors of a batch that was made, by name, or by number where they have none."""
    if isinstance(batch, torch.Tensor):
        return {"batch": batch}
    items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return dict(_flat(items))


def described(batch: Batch) -> dict[str, str]:
    """What identifies the batch: dtype and shape of each tensor."""
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        for name, tensor in named(batch).items()
    }


def _flat(items: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in items:
        if isinstance(value, torch.Tensor):
            yield str(name), value
        else:
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in named(value).items())


def _made(batch: Batch, make: Any) -> Batch:
    if isinstance(batch, torch.Tensor):
        return make(batch)
    if isinstance(batch, Mapping):
        return {name: _made(value, make) for name, value in batch.items()}
    if isinstance(batch, Sequence) and not isinstance(batch, str) and batch:
        if all(type(size) is int and size >= 0 for size in batch):
            return make(torch.empty(*batch, device="meta"))
        return tuple(_made(value, make) for value in batch)
    raise UsageError(
        f"batch: {batch!r} is neither a tensor nor a shape; give tensors or tuples of sizes"
    )
