"""A model and its optimizer, on a device where they may be trained without harm."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from inspect import signature
from typing import Any, Self

import torch
from torch import nn

from petl_bench.case import Optimizer as OptimizerName
from petl_bench.deferral import deferred_values, without_data
from petl_bench.errors import UsageError, hint
from petl_bench.own.card import OnTheCard
from petl_bench.training import make_optimizer, trainable

Build = Callable[[], nn.Module]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Optimizers = Mapping[str, torch.optim.Optimizer] | Sequence[torch.optim.Optimizer]
MakeOptimizers = Callable[[nn.Module], Optimizers]


def on_meta(model: nn.Module | Build) -> nn.Module:
    """A copy of `model` without data, or what `model` builds without any.

    A copy takes no memory for weights. What hooks and closures hold is not copied: a model that
    has such is better given as the function that builds it.

    Raises:
        UsageError: neither a module nor a function that returns one.
    """
    if not isinstance(model, nn.Module):
        # Copied like a module that is given: a function may use one that it was made with.
        model = _built_without_data(model)
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in (*module._parameters.values(), *module._buffers.values()):  # noqa: SLF001
            if value is not None:
                memo[id(value)] = _without_data(value)
        for value in vars(module).values():
            if isinstance(value, torch.Tensor):
                memo[id(value)] = _without_data(value)
    return copy.deepcopy(model, memo)


def on_device(model: nn.Module | Build, device: torch.device) -> nn.Module:
    """A copy of `model` on `device`, or what `model` builds there.

    Raises:
        UsageError: neither a module nor a function that returns one.
    """
    if isinstance(model, nn.Module):
        return copy.deepcopy(model).to(device)
    return _built(model, device).to(device)


class Several:
    """Optimizers of parts of a model, made by a function of the model; a step gets `made`."""

    def __init__(self, make: MakeOptimizers) -> None:
        self._make = make
        self.made: Optimizers = ()

    def of(self, model: nn.Module) -> Self:
        """Those of `model`.

        Raises:
            UsageError: the function returns something else.
        """
        self.made = self._make(model)
        if not all(isinstance(each, torch.optim.Optimizer) for each in self._all):
            raise UsageError(f"optimizers: {self._make!r} returned something else")
        return self

    @property
    def state(self) -> dict[torch.Tensor, Any]:
        """What they keep of each parameter."""
        return {tensor: state for each in self._all for tensor, state in each.state.items()}

    @property
    def name(self) -> str:
        """What identifies them."""
        return "+".join(type(each).__name__.lower() for each in self._all)

    @property
    def _all(self) -> tuple[Any, ...]:
        made = self.made
        return tuple(made.values() if isinstance(made, Mapping) else made)


def optimizer_for(
    model: nn.Module,
    optimizer: str | MakeOptimizer | torch.optim.Optimizer | Several,
    given: nn.Module | Build,
) -> torch.optim.Optimizer | Several:
    """An optimizer of `model`, which is a copy of `given` or was built by it.

    `optimizer` is a name, a class or function that takes the parameters that train, or an
    optimizer of `given`'s parameters, which gets a twin with the same groups and options.

    Raises:
        UsageError: an unknown name, an optimizer of other parameters, or nothing trains.
    """
    if not trainable(model):
        raise UsageError("model: none of its parameters trains (requires_grad)")
    if isinstance(optimizer, Several):
        return optimizer.of(model)
    if isinstance(optimizer, torch.optim.Optimizer):
        return _twin(optimizer, model, given)
    if isinstance(optimizer, str):
        if optimizer not in set(OptimizerName):
            raise UsageError(f"optimizer: no {optimizer!r}; {hint(optimizer, OptimizerName)}")
        return make_optimizer(model, OptimizerName(optimizer))
    made = optimizer(trainable(model))
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(f"optimizer: {optimizer!r} returned {type(made).__name__}, no optimizer")
    return made


def for_step(optimizer: torch.optim.Optimizer | Several) -> Any:
    """What a step gets: the optimizer, or what the function of several returned."""
    return optimizer.made if isinstance(optimizer, Several) else optimizer


def optimizer_name(optimizer: str | MakeOptimizer | torch.optim.Optimizer | Several) -> str:
    """What identifies the optimizer."""
    if isinstance(optimizer, Several):
        return optimizer.name
    if isinstance(optimizer, str):
        return optimizer
    named = type(optimizer) if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    return str(getattr(named, "__name__", type(named).__name__)).lower()


def _built(build: Build, device: torch.device) -> nn.Module:
    if not callable(build):
        raise UsageError(f"model: {build!r} is neither a module nor a function that builds one")
    with device, OnTheCard() if device.type != "cuda" else nullcontext():
        model = build()
    if not isinstance(model, nn.Module):
        raise UsageError(f"model: {build!r} returned {type(model).__name__}, not a torch module")
    return model


def _built_without_data(build: Build) -> nn.Module:
    """Without data even where `build` asks for a value; then it is called once more."""
    try:
        return _built(build, torch.device("meta"))
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error).lower():
            raise
    with deferred_values():
        model = _built(build, torch.device("cpu"))
    without_data(model)
    return model


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _twin(
    optimizer: torch.optim.Optimizer, model: nn.Module, given: nn.Module | Build
) -> torch.optim.Optimizer:
    if not isinstance(given, nn.Module):
        raise UsageError("optimizer: is of another model; beside a function, give a name or class")
    twins = dict(zip(given.parameters(), model.parameters(), strict=True))
    groups = []
    for group in optimizer.param_groups:
        if any(parameter not in twins for parameter in group["params"]):
            raise UsageError("optimizer: has parameters that the model has not")
        groups.append({**group, "params": [twins[parameter] for parameter in group["params"]]})
    kind = type(optimizer)
    accepted = signature(kind).parameters
    options = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    return kind(groups, **options)
