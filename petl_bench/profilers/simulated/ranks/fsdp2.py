"""One rank under FSDP2: torch's own `fully_shard` on meta tensors.

Every layer is a group that gathers and reduces together, and all that is outside of layers is the
root's (https://docs.pytorch.org/tutorials/intermediate/FSDP_tutorial.html). What FSDP2 asks of a
device is answered here: streams, which the caching allocator keeps apart, and storages that lose
their memory when a layer is sharded again. Collectives work in the memory that FSDP2 gives them.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard import (
    _fsdp_collectives,
    _fsdp_init,
    _fsdp_param,
    _fsdp_param_group,
    _fsdp_state,
    _fully_shard,
)
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import _disable_current_modes

from petl_bench.assembly import Trainee
from petl_bench.case import Workload
from petl_bench.errors import UsageError
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.ranks.world import pretended_world
from petl_bench.record import Category
from petl_bench.training import AUTOCAST_DTYPES

UNSHARD = "fsdp::unshard"
"""Stands as the operator that gives a gathered parameter its memory."""


@contextmanager
def sharded(ledger: Ledger, trainee: Trainee, workload: Workload) -> Iterator[None]:
    """Inside, `trainee` is sharded over the workload's ranks, and `ledger` hears what is its own.

    Raises:
        UsageError: FSDP2 does not take the model as it is.
    """
    assert workload.world_size is not None
    layers = _layers(trainee)
    _check([*layers, trainee.model])
    ledger.wrappers = (DTensor,)
    with pretended_world(workload.world_size), _on_meta(ledger):
        shard = partial(
            fully_shard,
            mesh=DeviceMesh("cpu", list(range(workload.world_size))),
            mp_policy=_policy(workload),
        )
        for layer in layers:
            shard(layer, reshard_after_forward=workload.reshard_after_forward)
        shard(trainee.model)  # the root is needed again at once: never sharded after forward
        for module in trainee.model.modules():
            if isinstance(module, FSDPModule) and module._get_fsdp_state()._fsdp_param_groups:
                module.set_custom_all_gather(_SilentAllGather())
                module.set_custom_reduce_scatter(_SilentReduceScatter())
        yield


def _policy(workload: Workload) -> MixedPrecisionPolicy:
    """Under autocast layers are gathered in its type: it would keep a copy of all of them else."""
    if workload.autocast is None:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(
        param_dtype=AUTOCAST_DTYPES[workload.autocast], reduce_dtype=torch.float32
    )


def _layers(trainee: Trainee) -> list[nn.Module]:
    """The layers of the backbone, as they are in the model that trains."""
    modules = list(trainee.model.modules())
    inside = set(modules)
    stacks = trainee.ports.stacks if trainee.ports else ()
    layers = [layer for stack in stacks for layer in stack.layers if layer in inside]
    if layers:
        return layers
    # What transformers itself, and with it every Trainer, takes for a layer.
    names = {
        name for module in modules for name in getattr(module, "_no_split_modules", None) or ()
    }
    layers = [module for module in modules if type(module).__name__ in names]
    if not layers:
        raise UsageError("parallel: fsdp2 shards layers, and none are known in this backbone")
    return layers


def _check(groups: Sequence[nn.Module]) -> None:
    """Refuse what `fully_shard` would, at the first step and by an assertion.

    A parameter belongs to one group; the gradients of a group are reduced together, in one type.
    """
    group_of: dict[nn.Parameter, nn.Module] = {}
    for group in groups:
        inside = {module for other in group_of.values() for module in other.modules()}
        own = [m for m in group.modules() if m not in inside]
        parameters = {p for module in own for p in module.parameters(recurse=False)}
        if not parameters.isdisjoint(group_of):
            raise UsageError(
                "parallel: fsdp2 shards layer by layer, and here layers share a parameter"
            )
        group_of |= dict.fromkeys(parameters, group)
        dtypes = sorted({str(p.dtype) for p in parameters if p.requires_grad})
        if len(dtypes) > 1:
            raise UsageError(
                "parallel: fsdp2 takes one type of parameters that train in a layer, and here are"
                f" {' and '.join(dtypes)}"
            )


# --- a device that there is not ------------------------------------------------------------------


class _Stream:
    """A number; to wait takes no memory."""

    def __init__(self, number: int) -> None:
        self.number = number

    def wait_stream(self, stream: "_Stream") -> None:
        """Nothing."""

    def wait_event(self, event: object) -> None:
        """Nothing."""

    def record_event(self) -> None:
        """Nothing to wait for."""


class _Event:
    """Over when it is asked."""

    def record(self) -> None:
        """Nothing."""


class _Device:
    """What FSDP2 takes for torch.cuda: who allocates under a stream has that stream's memory."""

    Event = _Event

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._streams = 0

    def Stream(self, priority: int = 0) -> _Stream:  # noqa: N802 - as in torch.cuda
        """One more."""
        del priority
        self._streams += 1
        return _Stream(self._streams)

    def current_stream(self) -> _Stream:
        """Whose memory is allocated."""
        return _Stream(self._ledger.stream)

    @contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        """Inside, memory of `stream` is allocated."""
        before, self._ledger.stream = self._ledger.stream, stream.number
        try:
            yield
        finally:
            self._ledger.stream = before


class _Silent:
    """A collective that does nothing, in memory as FSDP2's own allocates it."""

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """A buffer to send from or to receive in."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, *_: Any, **__: Any) -> dist.Work | None:
        """Nobody to wait for."""
        return None


class _SilentAllGather(_Silent, AllGather):  # type: ignore[misc]
    pass


class _SilentReduceScatter(_Silent, ReduceScatter):  # type: ignore[misc]
    pass


def _whole_gradients(parameters: Sequence[Any]) -> Iterator[torch.Tensor]:
    """One by one, since they go as soon as they are copied for the others."""
    for parameter in parameters:
        whole = getattr(parameter, "_unsharded_param", None)
        if whole is not None and whole.grad is not None:
            yield whole.grad


@contextmanager
def _on_meta(ledger: Ledger) -> Iterator[None]:
    """Inside, FSDP2 works on tensors without data, and tells `ledger` what it does by storages."""

    def fill(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.size() != tensor.nbytes:
            storage.resize_(tensor.nbytes)
            ledger.filled(tensor, Category.PARAMETER, UNSHARD)
        ledger.label([tensor], Category.PARAMETER)  # the first time it is made full

    def empty(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.size() != 0:
            ledger.emptied(tensor)
            storage.resize_(0)

    group = _fsdp_param_group.FSDPParamGroup
    post_backward = group.post_backward

    def labelled_post_backward(self: Any, *unused: Any) -> None:
        ledger.label(_whole_gradients(self.fsdp_params), Category.GRADIENT)
        post_backward(self, *unused)

    propagate = ShardingPropagator._propagate_tensor_meta_non_cached

    def unseen(self: Any, schema: Any) -> Any:
        """Shapes are worked out on fake tensors, which nobody would allocate."""
        with _disable_current_modes():
            return propagate(self, schema)

    device = _Device(ledger)
    places = (_fsdp_collectives, _fsdp_init, _fsdp_param_group, _fsdp_state)
    replaced: list[tuple[Any, str, Any]] = [
        *((module, "_get_device_handle", lambda _type: device) for module in places),
        (_fully_shard, "_get_device_from_mesh", lambda _mesh: torch.device("meta")),
        (group, "_validate_no_meta_params", lambda _self: None),
        (group, "post_backward", labelled_post_backward),
        (_fsdp_param, "alloc_storage", fill),
        (_fsdp_param_group, "alloc_storage", fill),
        (_fsdp_param, "free_storage", empty),
        (ShardingPropagator, "_propagate_tensor_meta_non_cached", unseen),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(warnings.catch_warnings())
        # Of the model, not of its memory: layers that return a view.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        yield
