"""Provenance: the module and the line of code that made each storage of a ledger.

Forward: hooks on every module call keep a stack of the calls under way; the innermost frame of
Python outside torch is the line. Backward has no calls: there the autograd node under way tells,
by its sequence number, when in forward it was made, and so by which module and line.
"""

import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from torch.autograd import _get_sequence_nr  # type: ignore[attr-defined]
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from petl_bench.assembly import Trainee
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.module_calls import ModuleCalls
from petl_bench.profilers.simulated.profiler import KeepsState
from petl_bench.profilers.simulated.source_lines import SourceLines
from petl_bench.record import Phase
from petl_bench.training import trainable


class Site(NamedTuple):
    """Where a storage was made."""

    module: str | None  # path of the module whose call was under way; None outside any
    source: str | None  # file and line, the file as its package knows it
    in_backward: bool = False  # made by the backward pass of what `module` did at `source`


class Name(NamedTuple):
    """What a storage is called, and the module that owns it."""

    module: str | None
    name: str


class Provenance:
    """While entered, tells the ledger that it opens where each storage comes from.

    `sites[ledger.sites[i]]` is the site of storage i; `names` has those that have a name of
    their own: parameters, buffers, gradients, optimizer state and inputs.
    """

    def __init__(self, trainee: Trainee) -> None:
        self.sites: list[Site] = []
        self.names: dict[int, Name] = {}
        self._ledger: Ledger | None = None
        self._trainee = trainee
        self._paths = dict(_paths(trainee))
        self._tensor_names = _tensor_names(self._paths)
        self._calls = ModuleCalls(self._paths)
        self._lines = SourceLines()
        self._index: dict[Site, int] = {}
        self._known: dict[tuple[str | None, int, int], int] = {}  # path, code, instruction
        self._backward_of: dict[int, int] = {}
        # Autograd numbers its nodes: those from the last entry up to this one were made at ...
        self._node_ends: list[int] = []
        self._node_sites: list[int] = []  # ... this site.
        self._handles: list[Any] = []
        self._optimizer: KeepsState | None = None

    def __enter__(self) -> Self:
        self._handles = [
            register_module_forward_pre_hook(self._entering),
            register_module_forward_hook(self._leaving, always_call=True),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ledger is not None:
            self._ledger.locate = None
        for handle in self._handles:
            handle.remove()

    def opens(self, ledger: Ledger) -> None:
        """Answer the questions of `ledger`."""
        self._ledger = ledger
        ledger.locate = self._locate

    # --- names, told while their tensors are alive -------------------------------------------

    def begins(self, batch: Mapping[str, torch.Tensor], optimizer: KeepsState | None) -> None:
        """Name what the steps begin with."""
        self._tensor_names = _tensor_names(self._paths)  # sharded ones are others than before
        for tensor, name in self._tensor_names.items():
            self._call_it(tensor, name)
        for key, tensor in batch.items():
            self._call_it(tensor, Name(None, key))
        self._optimizer = optimizer

    def ends(self, phase: Phase) -> None:
        """Name what a phase of a step has left."""
        if phase is Phase.BACKWARD:
            for trained in trainable(self._trainee.model):
                if trained.grad is not None:
                    self._call_it(trained.grad, self._tensor_names[trained])
        elif phase is Phase.OPTIMIZER_STEP and self._optimizer is not None:
            for parameter, state in self._optimizer.state.items():
                module, name = self._tensor_names[parameter]
                for key, value in state.items():
                    if torch.is_tensor(value):
                        self._call_it(value, Name(module, f"{name}: {key}"))

    def _call_it(self, tensor: torch.Tensor, name: Name) -> None:
        assert self._ledger is not None
        index = self._ledger.index_of(tensor)
        if index is not None:
            self.names.setdefault(index, name)

    # --- sites -------------------------------------------------------------------------------

    def _entering(self, module: nn.Module, args: Any) -> None:
        del args
        path = self._paths.get(module)
        if path is not None:
            self._made_nodes()
            self._calls.enter(path)

    def _leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        del args, output
        if module in self._paths:
            self._made_nodes()
            self._calls.leave()

    def _locate(self) -> int:
        if not self._calls.under_way:
            node = torch._C._current_autograd_node()
            return self._here() if node is None else self._of_node(node)
        site = self._here()
        self._made_nodes(site)
        return site

    def _made_nodes(self, site: int | None = None) -> None:
        """Autograd nodes made since the last time belong to `site`, or to where we are."""
        end = _get_sequence_nr()
        if not self._node_ends or end > self._node_ends[-1]:
            self._node_ends.append(end)
            self._node_sites.append(self._here() if site is None else site)

    def _here(self) -> int:
        frame = line = self._lines.first(sys._getframe(2))
        path = self._calls.innermost
        if path is not None:
            while frame is not None and (owners := self._calls.owners(frame.f_code)) is None:
                frame = self._lines.first(frame.f_back)
            if frame is not None and owners is not None:
                path = self._calls.resolve(owners)
        if line is None:
            return self._intern(Site(path, None))
        key = (path, id(line.f_code), line.f_lasti)
        site = self._known.get(key)
        if site is None:
            site = self._intern(Site(path, f"{self._lines.file(line)}:{line.f_lineno}"))
            self._known[key] = site
        return site

    def _of_node(self, node: Any) -> int:
        number = node._sequence_nr()
        position = bisect_right(self._node_ends, number)
        if position < len(self._node_ends):
            forward = self._node_sites[position]
            site = self._backward_of.get(forward)
            if site is None:
                site = self._intern(self.sites[forward]._replace(in_backward=True))
                self._backward_of[forward] = site
            return site
        # A parameter's gradient accumulator has no number of its own.
        variable = getattr(node, "variable", None)
        name = None if variable is None else self._tensor_names.get(variable)
        module = None if name is None else name.module
        return self._intern(Site(module, None, in_backward=True))

    def _intern(self, site: Site) -> int:
        index = self._index.setdefault(site, len(self.sites))
        if index == len(self.sites):
            self.sites.append(site)
        return index


def _paths(trainee: Trainee) -> Iterator[tuple[nn.Module, str]]:
    """Every module's path, the backbone's own as they were before the method came.

    The backbone itself is "", and so is what is wrapped around it; what a method put inside is
    named from the backbone, what it put beside from the model.
    """
    own = trainee.backbone_names
    modules = dict(trainee.model.named_modules())
    prefix = next((name for name, module in modules.items() if own.get(module) == ""), "")
    for name, module in modules.items():
        if module in own:
            yield module, own[module]
        elif name == "" or f"{prefix}.".startswith(f"{name}."):
            yield module, ""
        else:
            inside = prefix and name.startswith(f"{prefix}.")
            yield module, name[len(prefix) + 1 :] if inside else name


def _tensor_names(paths: Mapping[nn.Module, str]) -> dict[torch.Tensor, Name]:
    """Parameters and buffers by the first module that has them."""
    names: dict[torch.Tensor, Name] = {}
    for module, path in paths.items():
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, tensor in own:
            names.setdefault(tensor, Name(path, f"{path}.{name}" if path else name))
    return names
