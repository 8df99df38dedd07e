"""The ledger: every storage on the simulated device, in the order CUDA would allocate it.

A dispatch mode watches each operator. A storage enters the ledger when an operator first returns
a tensor on it and leaves when torch frees it; views and aliases share their storage and count
once. What results is a stream of allocations and frees, to be replayed through a model of the
caching allocator (`allocator/`). Storages have no data (`meta` tensors), so a model of any size
fits in RAM and every run gives the same stream.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from petl_bench.cards import CARDS, DEFAULT_CARD, Card
from petl_bench.profilers.simulated import cuda_semantics
from petl_bench.profilers.simulated.kernels import RECIPES
from petl_bench.profilers.simulated.kernels.recipe import Call, Free, Recipe, Sized, tensors
from petl_bench.profilers.simulated.remembering import remembering
from petl_bench.profilers.simulated.values import ANSWERS
from petl_bench.record import Category, Phase

aten = torch.ops.aten

_ADD = aten.add.Tensor

LOADED = "(loaded)"
"""Stands where an operator could, of what was there before the first one ran."""


@dataclass(frozen=True)
class Window:
    """The events of one phase of one step: `Ledger.events[start:stop]`."""

    step: int
    phase: Phase
    start: int
    stop: int


class _StorageRef(weakref.ref[torch.UntypedStorage]):
    """A weak reference that knows its place in the ledger."""

    __slots__ = ("index", "key")
    index: int
    key: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Operator:
    """What is to be known of an operator each time that it runs."""

    func: Any
    run: Callable[..., Any]
    name: str
    is_view: bool
    recipe: Recipe | None
    counter: Callable[..., int] | None  # of its FLOPs
    multiplies: bool  # on cuBLAS
    sums: bool  # in place, where nobody watches


class Ledger(TorchDispatchMode):
    """Records allocations, frees, FLOPs and bytes moved of all operators run under it.

    `events` holds storage index i for its allocation and ~i for its free; `sizes[i]` is in bytes
    as requested, `categories[i]` what it is for, `operators[i]` what made it, and `streams[i]` the
    CUDA stream whose memory it is of, if not the default one's.
    """

    def __init__(
        self,
        devices: frozenset[str] = frozenset({"meta"}),
        *,
        card: Card = CARDS[DEFAULT_CARD],
        cuda: bool = True,
        workspace_bytes: int = 0,
        sums_in_place: bool = True,
    ) -> None:
        """`cuda=False` leaves out what only CUDA's kernels allocate, to compare with a CPU run.

        `sums_in_place=False` sums gradients as autograd did before torch 1.12.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        cuda_semantics.last_reference()  # it runs a backward pass, so not from inside one
        self.events: list[int] = []
        self.sizes: list[int] = []
        self.categories: list[Category] = []
        self.operators: list[str] = []
        self.streams: dict[int, int] = {}
        self.sites: list[int] = []  # what `locate` said of each storage, if it is set
        self.windows: list[Window] = []
        self.flops = 0
        self.on_operator: Callable[[Any, Sequence[Any], Any, int], None] | None = None
        self.locate: Callable[[], int] | None = None  # asked at every allocation
        self.stream = 0  # that allocates now; 0 is the default one
        # Tensors that compute by a tensor of their own, `_local_tensor`: that one is recorded.
        self.wrappers: tuple[type, ...] = ()
        self._devices = devices
        self._card = card
        self._recipes: Mapping[Any, Recipe] = RECIPES if cuda else {}
        self._workspace_bytes = workspace_bytes
        self._sums_in_place = sums_in_place
        self._known: dict[int, _Operator] = {}  # by id: an operator's own hash is slow
        self._workspaces: set[bool] = set()  # threads that have one: forward's, backward's
        self._live: dict[int, _StorageRef] = {}
        self._in_backward = False

    def begin(self, phase: Phase) -> int:
        """Start of a phase; returns the index of its first event."""
        self._in_backward = phase is Phase.BACKWARD
        return len(self.events)

    def end(self, step: int, phase: Phase, start: int) -> None:
        """End of a phase that began at event `start`."""
        self._in_backward = False
        self.windows.append(Window(step, phase, start, len(self.events)))

    def adopt(self, tensors: Iterable[torch.Tensor], category: Category) -> None:
        """Enter tensors made outside, as if allocated now, in their order."""
        for tensor in tensors:
            self._see(tensor, LOADED)
            self.label([tensor], category)

    def index_of(self, tensor: torch.Tensor) -> int | None:
        """The storage of `tensor` in the ledger, if it is alive there and one alone."""
        if tensor.layout is torch.sparse_coo:
            return None
        ref = self._live.get(self._inner(tensor).untyped_storage()._cdata)
        return None if ref is None else ref.index

    def label(self, tensors: Iterable[torch.Tensor], category: Category) -> None:
        """Say what the storages of `tensors` are for; those not in the ledger are passed over."""
        for tensor in tensors:
            index = self.index_of(tensor)
            if index is not None:
                self.categories[index] = category

    def filled(self, tensor: torch.Tensor, category: Category, operator: str) -> None:
        """The storage of `tensor`, made before, has got its memory from `operator`."""
        self._see(tensor, operator)
        self.label([tensor], category)

    def emptied(self, tensor: torch.Tensor) -> None:
        """The storage of `tensor` has given its memory back, though it lives on."""
        ref = self._live.pop(tensor.untyped_storage()._cdata, None)
        if ref is not None:
            self.events.append(~ref.index)

    def relabel_live(self, old: Category, new: Category) -> None:
        """Say that everything of category `old` that is alive now was really `new`."""
        for ref in self._live.values():
            if self.categories[ref.index] is old:
                self.categories[ref.index] = new

    def live_bytes(self) -> int:
        """Requested bytes of all storages alive now."""
        return sum(self.sizes[ref.index] for ref in self._live.values())

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self.wrappers and any(issubclass(kind, self.wrappers) for kind in types):
            return NotImplemented  # the operators that it comes down to follow
        kwargs = kwargs or {}
        operator = self._known.get(id(func)) or self._operator(func)
        if operator.is_view:
            return self._view(operator, args, kwargs)
        if self._in_backward and operator.sums and (self._sums_in_place or func is not _ADD):
            func = cuda_semantics.in_place(func, args)
            operator = self._known.get(id(func)) or self._operator(func)
        out = operator.run(*args, **kwargs)
        if operator.recipe is None:
            for tensor in tensors(out):
                self._see(tensor, operator.name)
        else:
            self._follow(operator.recipe, Call(self._card, args, kwargs, out), operator.name)
        if operator.multiplies and self._workspace_bytes:
            self._make_workspace()
        flops = 0
        if operator.counter is not None:
            flops = operator.counter(*args, **kwargs, out_val=out)
            self.flops += flops
        if self.on_operator is not None:
            self.on_operator(func, args, out, flops)
        return out

    def _view(self, operator: "_Operator", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Nothing is allocated, but of tensors made outside, which are seen here first."""
        out = operator.func(*args, **kwargs)
        for tensor in (out,) if isinstance(out, torch.Tensor) else out:
            self._see(tensor, operator.name)
        if self.on_operator is not None:
            self.on_operator(operator.func, args, out, 0)
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and to keep dynamo out takes time at every operator.
        return False

    def _operator(self, func: Any) -> "_Operator":
        known = _Operator(
            func=func,
            run=ANSWERS.get(func) or remembering(func),
            name=func.name(),
            is_view=func.is_view,
            recipe=self._recipes.get(func),
            counter=flop_registry.get(func.overloadpacket),
            multiplies=func in cuda_semantics.GEMMS,
            sums=func in cuda_semantics.IN_PLACE,
        )
        self._known[id(func)] = known
        return known

    def _follow(self, recipe: Recipe, call: Call, operator: str) -> None:
        """Results and scratch in the order in which CUDA's kernels allocate and free them."""
        borrowed: list[int] = []
        for step in recipe(call):
            if isinstance(step, torch.Tensor):
                self._see(step, operator)
            elif isinstance(step, Sized):
                self._see(step.tensor, operator, step.size_bytes)
            elif isinstance(step, Free):
                self.events.append(~borrowed.pop(step.place))
            elif step:
                borrowed.append(self._allocate(step, operator, Category.TEMPORARY))
        self.events.extend(~index for index in reversed(borrowed))

    def _see(self, tensor: torch.Tensor, operator: str, size_bytes: int | None = None) -> None:
        if tensor.device.type not in self._devices:
            return
        if tensor.layout is torch.sparse_coo:
            self._see(tensor._indices(), operator)
            self._see(tensor._values(), operator)
            return
        storage = self._inner(tensor).untyped_storage()
        key = storage._cdata  # the address of the C++ storage
        if key in self._live:
            return
        ref = _StorageRef(storage, self._freed)
        size = storage.nbytes() if size_bytes is None else size_bytes
        ref.index = self._allocate(size, operator, Category.TEMPORARY)
        ref.key = key
        self._live[key] = ref

    def _inner(self, tensor: torch.Tensor) -> torch.Tensor:
        inner: Any = tensor
        if isinstance(tensor, self.wrappers):
            inner = inner._local_tensor
        assert isinstance(inner, torch.Tensor)
        return inner

    def _allocate(self, size: int, operator: str, category: Category) -> int:
        index = len(self.sizes)
        if self.stream:
            self.streams[index] = self.stream
        self.sizes.append(size)
        self.operators.append(operator)
        self.categories.append(category)
        if self.locate is not None:
            self.sites.append(self.locate())
        self.events.append(index)
        return index

    def _freed(self, ref: "weakref.ref[torch.UntypedStorage]") -> None:
        assert isinstance(ref, _StorageRef)
        del self._live[ref.key]
        self.events.append(~ref.index)

    def _make_workspace(self) -> None:
        # One cuBLAS handle a thread: the caller's, and autograd's device thread.
        if self._in_backward not in self._workspaces:
            self._workspaces.add(self._in_backward)
            self._allocate(self._workspace_bytes, "cublasSetWorkspace", Category.WORKSPACE)
