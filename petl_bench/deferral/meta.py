"""Tensors and models without data."""

from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

CPU, META = torch.device("cpu"), torch.device("meta")

_KNOWN_BYTES = 512


KNOWN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""What was in small tensors that have no data any more, by the tensor."""


def without_data(model: nn.Module) -> None:
    """Put the parameters and buffers of `model` that hold data on the meta device, ties kept.

    What a few whole numbers among them were, sizes and places, stays in `KNOWN`. Other tensors
    that its modules have are left on the host when a model moves: they become tensors there.
    """
    moved: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        by_kind: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)  # noqa: SLF001
        for tensors in by_kind:
            for name, tensor in tensors.items():
                if tensor is None or tensor.is_meta:
                    continue
                if tensor not in moved:
                    twin = torch.empty_like(tensor, device=META)
                    if isinstance(tensor, nn.Parameter):
                        twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
                    moved[tensor] = twin
                    if not tensor.is_floating_point() and tensor.nbytes <= _KNOWN_BYTES:
                        KNOWN[twin] = tensor.detach()
                tensors[name] = moved[tensor]
    _leave_on_host(model)


def _leave_on_host(model: nn.Module) -> None:
    """Make tensors of the host of those that a model does not move with it."""
    owned = (*model.parameters(), *model.buffers())
    movable = {address(tensor.untyped_storage()) for tensor in owned}
    for module in model.modules():
        for held in [vars(module), *(v for v in vars(module).values() if type(v) is dict)]:
            for name, value in held.items():
                if not isinstance(value, torch.Tensor) or not value.is_meta:
                    continue
                if address(value.untyped_storage()) not in movable:
                    held[name] = torch.zeros_like(value, device=CPU)


def address(storage: torch.UntypedStorage) -> int:
    """What tells `storage` from all others as long as it lives."""
    found: int = storage._cdata  # noqa: SLF001 - `data_ptr` is 0 on meta
    return found


def twin(leaf: Any) -> Any:
    """A tensor of the same kind on the meta device; anything else as it is."""
    if not torch.is_tensor(leaf):
        return leaf
    return torch.empty_strided(leaf.size(), leaf.stride(), dtype=leaf.dtype, device=META)


def emptied(leaf: Any) -> Any:
    """A twin of a tensor that holds data; anything else as it is."""
    return twin(leaf) if torch.is_tensor(leaf) and not leaf.is_meta else leaf
