"""Code that builds modules, run without data: values are worked out only when they are asked for.

Inside `deferred_values()` every new tensor is a `meta` tensor that says it is on the CPU, so that
code which makes, moves, casts and ties tensors takes the ways that it takes there. How each
storage came to be is kept, and when the code asks a tensor for a value (`.item()`, `nonzero`, any
operator without a meta kernel), the operators that this value rests on, and no others, are run on
the CPU. Weights that were there before count as random. After the scope the tensors are plain
`meta` tensors again.

Tensors made of Python's or numpy's data keep it, since there is no other place for it; they are
small.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeGuard
from unittest.mock import patch

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from petl_bench.garbage import collection_paused

aten = torch.ops.aten

CPU, META = torch.device("cpu"), torch.device("meta")
SMALL_BYTES = 65_536  # of what is kept for the next question
LARGE = 1_000_000  # elements of a matrix that takes seconds to factorise
_NUMBERS = {bool, int, float}
TOLD_BYTES = 1 << 24  # likewise, where it was asked for
KNOWN_BYTES = 512
_SEEDS = 1 << 31
STANDARD_DEVIATION = 0.02  # of what stands for weights, as transformers draws them


KNOWN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""What was in small tensors that have no data any more, by the tensor."""


@contextmanager
def deferred_values() -> Iterator[None]:
    """In this scope what code makes on the CPU has no data, but answers questions about it."""
    recorder = _Recorder()
    seeding = patch.object(torch, "manual_seed", recorder.seeded(torch.manual_seed))
    with collection_paused(), seeding, recorder, META, _Pretence(recorder):
        yield


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
                    if not tensor.is_floating_point() and tensor.nbytes <= KNOWN_BYTES:
                        KNOWN[twin] = tensor.detach()
                tensors[name] = moved[tensor]
    _leave_on_host(model)


def _leave_on_host(model: nn.Module) -> None:
    """Make tensors of the host of those that a model does not move with it."""
    movable = {_address(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        for held in [vars(module), *(v for v in vars(module).values() if type(v) is dict)]:
            for name, value in held.items():
                stays = isinstance(value, torch.Tensor) and _address(value) not in movable
                if stays and value.is_meta:
                    held[name] = torch.zeros_like(value, device=CPU)


# --- the CPU that is not there ------------------------------------------------------------------


class _Pretence(TorchFunctionMode):
    """Says "cpu" where it is "meta", and takes "cpu" for it."""

    def __init__(self, recorder: "_Recorder") -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        if func is torch.Tensor.__setitem__ and self._recorder.notes(*args):
            return None
        options = dict(kwargs or {})
        if func in _GETTERS:
            return _GETTERS[func](func(*args))
        if func in _OF_DATA and not torch.is_tensor(args[0]):
            options.setdefault("device", CPU)
            return func(*args, **options)
        if func in _TO_NUMPY:
            return func(args[0].to(CPU), *args[1:], **options)
        if func is torch.Tensor.cpu:
            func, args = torch.Tensor.to, (args[0], CPU)
        if func is torch.Tensor.to:
            if not args[0].is_meta:
                return func(*args, **options)  # it is on the CPU
            args = (args[0], *map(_meant, args[1:]))
        if "device" in options:
            options["device"] = _meant(options["device"])
        return func(*args, **options)


def _meant(argument: Any) -> Any:
    is_cpu = isinstance(argument, (str, torch.device)) and torch.device(argument) == CPU
    return META if is_cpu else argument


_GETTERS: dict[Any, Callable[[Any], Any]] = {
    torch.Tensor.device.__get__: lambda device: CPU if device == META else device,
    torch.Tensor.is_meta.__get__: lambda _: False,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda _: True,  # type: ignore[attr-defined]
}
_OF_DATA = {torch.tensor, torch.as_tensor, torch.asarray}
_TO_NUMPY: set[Any] = {torch.Tensor.numpy, torch.Tensor.__array__}


# --- how storages came to be --------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _State:
    """What a storage held at one time."""

    origin: "_Call | _Notes | Callable[[], torch.UntypedStorage]"  # what wrote it, or how to get it
    position: int  # among what the call wrote
    key: int  # equal keys, equal bytes


class _View(NamedTuple):
    """A tensor: the state of its storage, and where it lies there."""

    state: _State
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @property
    def key(self) -> int:
        return hash((self.state.key, *self[1:]))

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """The tensor, of what `storage` holds."""
        tensor = torch.empty(0, dtype=self.dtype, device=CPU)
        tensor.set_(storage, self.offset, self.size, self.stride)
        return tensor


_Bytes = Mapping[_State, torch.UntypedStorage]


def _view(state: _State, tensor: torch.Tensor) -> _View:
    """`tensor`, whose storage is in `state`."""
    offset = int(tensor.storage_offset())
    return _View(state, tensor.dtype, tensor.size(), tensor.stride(), offset)


@dataclass(frozen=True, eq=False)
class _Call:
    """An operator with its arguments as they were."""

    func: Any
    leaves: tuple[Any, ...]  # of the arguments, a _View for each tensor
    spec: Any  # puts them in their places
    draw: int  # tells random operators with equal arguments apart
    key: int  # equal keys, equal results

    @property
    def reads(self) -> list[_State]:
        """The states that its arguments were in."""
        return [leaf.state for leaf in self.leaves if isinstance(leaf, _View)]

    def result(self, storages: _Bytes) -> Any:
        """What it returns, where `storages` hold what it reads."""
        return self._run(storages)[0]

    def written(self, storages: _Bytes) -> list[torch.UntypedStorage]:
        """What it makes, then what it changes; `storages` stay as they are."""
        if _written(self.func):
            storages = {state: storages[state].clone() for state in self.reads}
        out, args, kwargs = self._run(storages)
        tensors = [*_made(out, args, kwargs), *_changed(self.func, args, kwargs)]
        return [tensor.untyped_storage() for tensor in tensors]

    def _run(self, storages: _Bytes) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        leaves = list(self.leaves)
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, _View):
                leaves[index] = leaf.on(storages[leaf.state])
            elif isinstance(leaf, torch.Generator):
                leaves[index] = leaf.clone_state()
            elif leaf == META:
                leaves[index] = CPU
        args, kwargs = tree_unflatten(leaves, self.spec)
        if not self.draw:
            return self.func(*args, **kwargs), args, kwargs
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.draw)
            return self.func(*args, **kwargs), args, kwargs


class _Note(NamedTuple):
    """One number written to one place of a tensor."""

    target: _View
    place: tuple[int | _View, ...]
    value: float

    @property
    def key(self) -> int:
        return hash((self.target.key, *map(_place_key, self.place), self.value))


@dataclass(eq=False, slots=True)
class _Notes:
    """Numbers that were written one after the other to what held `before`."""

    before: _State
    notes: list[_Note]

    @property
    def reads(self) -> list[_State]:
        """The state before the first of them, and those that say the places."""
        views = {id(at.state): at.state for note in self.notes for at in note.place if _is_view(at)}
        return [self.before, *views.values()]

    def written(self, storages: _Bytes) -> list[torch.UntypedStorage]:
        """What the storage holds after them; `storages` stay as they are."""
        storage = storages[self.before].clone()
        for target, place, value in self.notes:
            found = [_place(at, storages) for at in place]
            target.on(storage)[tuple(found)] = value
        return [storage]

    def end(self) -> _State:
        """What the storage holds when nothing more is noted."""
        return _State(self, 0, hash(tuple(note.key for note in self.notes)))


def _place(at: int | _View, storages: _Bytes) -> int:
    return int(at.on(storages[at.state])) if isinstance(at, _View) else at


def _place_key(at: int | _View) -> int:
    return at.key if _is_view(at) else hash(at)


def _is_view(at: Any) -> TypeGuard[_View]:
    return isinstance(at, _View)


class _Recorder(TorchDispatchMode):
    """Keeps how every storage came to be, and answers questions about values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # By the storage's address; the storage is kept, or its address would be given again.
        self._states: dict[int, tuple[torch.UntypedStorage, _State]] = {}
        self._holding: dict[int, tuple[torch.UntypedStorage, int, _State]] = {}
        self._noting: dict[int, _Notes] = {}  # by the storage's address, until it is asked about
        self._small: dict[int, torch.UntypedStorage] = {}  # by their states' keys
        self._answers: dict[int, Any] = {}  # of calls without a meta kernel, by their keys
        self._told: dict[int, torch.Tensor] = {}  # data that was asked for, by the questions' keys
        self._draws = itertools.count(1)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - here "meta" is called "meta"
            return self._dispatch(func, args, kwargs or {})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and to keep dynamo out takes time at every operator.
        return False

    def notes(self, target: torch.Tensor, place: Any, value: Any) -> bool:
        """Whether `target[place] = value` writes one number to one place, which is only noted.

        Set-up code that fills a matrix so does it thousands of times a layer.
        """
        if type(place) is not tuple or type(value) not in _NUMBERS:
            return False
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - as below
            if not target.is_meta or target.requires_grad or target.dim() != len(place):
                return False
            at: list[int | _View] = []
            for index in place:
                if type(index) is int:
                    at.append(index)
                elif torch.is_tensor(index) and index.dtype is torch.int64 and not index.dim():
                    at.append(self._view(index))
                else:
                    return False
            address = target.untyped_storage()._cdata  # noqa: SLF001 - it has no public name
            if address not in self._noting:
                self._noting[address] = _Notes(self._state(target), [])
            notes = self._noting[address]
            notes.notes.append(_Note(_view(notes.before, target), tuple(at), value))
        return True

    def _dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not any(tensor.is_meta for tensor in tensors) and kwargs.get("device") != META:
            return func(*args, **kwargs)  # all that it is about holds data
        changed = _changed(func, args, kwargs)
        call = self._call(func, leaves, spec)
        if _asks_for_data(func, kwargs):
            return self._tell(call)
        if not all(tensor.is_meta for tensor in changed):
            raise NotImplementedError(f"{func}: data of a model's size kept in a small tensor")
        if not all(tensor.is_meta for tensor in tensors):
            args, kwargs = tree_unflatten([_without_data(leaf) for leaf in leaves], spec)
        try:
            out = func(*args, **kwargs)
        except (NotImplementedError, RuntimeError) as error:
            if not isinstance(error, NotImplementedError) and "meta" not in str(error):
                raise
            out = self._answer(call)
        if func.is_view:
            return out
        for position, tensor in enumerate([*_made(out, args, kwargs), *changed]):
            storage = tensor.untyped_storage()
            origin = _random(tensor) if _takes_long(func, tensors) else call
            state = _State(origin, position, hash((call.key, position)))
            self._states[storage._cdata] = (storage, state)  # noqa: SLF001 - its address
        return out

    def seeded(self, seed: Callable[[int], torch.Generator]) -> Callable[[int], torch.Generator]:
        """`torch.manual_seed`, after which the same numbers are drawn again."""

        def manual_seed(value: int) -> torch.Generator:
            self._draws = itertools.count((value % _SEEDS + 1) * _SEEDS)
            return seed(value)

        return manual_seed

    def _tell(self, call: _Call) -> Any:
        """The data that `call` asks for; a layer like another one asks for the same."""
        told = self._told.get(call.key)
        if told is None:
            told = call.result(self._bytes(call.reads))
            if torch.is_tensor(told) and told.nbytes <= TOLD_BYTES:
                self._told[call.key] = told
        return told.clone() if torch.is_tensor(told) else told

    def _answer(self, call: _Call) -> Any:
        """What `call` returns, its tensors without data."""
        if call.key not in self._answers:
            result = call.result(self._bytes(call.reads))
            self._answers[call.key] = tree_map(_without_data, result)
        return tree_map(_twin, self._answers[call.key])

    def _call(self, func: Any, flat: Sequence[Any], spec: Any) -> _Call:
        leaves, keys = list(flat), [func]
        random = torch.Tag.nondeterministic_seeded in func.tags
        for index, leaf in enumerate(leaves):
            if torch.is_tensor(leaf):
                leaves[index] = self._view(leaf)
                keys.append(leaves[index].key)
            elif isinstance(leaf, torch.Generator):
                leaves[index], random = leaf.clone_state(), False
                keys.append(bytes(leaf.get_state().numpy()))
                leaf.manual_seed(leaf.initial_seed() + 1)  # the next draw is another one
            else:
                keys.append(repr(leaf))
        draw = next(self._draws) if random else 0
        return _Call(func, tuple(leaves), spec, draw, hash((draw, *keys)))

    def _view(self, tensor: torch.Tensor) -> _View:
        return _view(self._state(tensor), tensor)

    def _state(self, tensor: torch.Tensor) -> _State:
        storage = tensor.untyped_storage()
        address = storage._cdata  # noqa: SLF001 - it has no public name
        if not tensor.is_meta:
            return self._held(storage, tensor._version)  # noqa: SLF001 - likewise
        if address not in self._states:
            # It was there before: its values count as random, equal for equal sizes.
            key = hash((storage.nbytes(), tensor.dtype))
            self._states[address] = (storage, _State(_random(tensor), 0, key))
        elif notes := self._noting.pop(address, None):
            self._states[address] = (storage, notes.end())
        return self._states[address][1]

    def _held(self, storage: torch.UntypedStorage, version: int) -> _State:
        """The state of a storage with data, which may be written to again."""
        known = self._holding.get(storage._cdata)  # noqa: SLF001 - its address
        if known is None or known[1] != version:
            copy = storage.clone()
            data = torch.empty(0, dtype=torch.uint8, device=CPU).set_(copy).numpy().tobytes()
            known = (storage, version, _State(lambda: copy, 0, hash(data)))
            self._holding[storage._cdata] = known  # noqa: SLF001 - its address
        return known[2]

    def _bytes(self, wanted: Iterable[_State]) -> _Bytes:
        """What `wanted` hold: all that they rest on is run, in order."""
        found: dict[_State, torch.UntypedStorage] = {}
        ahead = list(wanted)
        while ahead:
            state = ahead[-1]
            if state in found:
                ahead.pop()
            elif state.key in self._small:
                found[state] = self._small[state.key]
            elif not isinstance(state.origin, (_Call, _Notes)):
                found[state] = state.origin()
            elif missing := [read for read in state.origin.reads if read not in found]:
                ahead.extend(missing)
            else:
                found[state] = state.origin.written(found)[state.position]
                if found[state].nbytes() <= SMALL_BYTES:
                    self._small[state.key] = found[state]
        return found


def _asks_for_data(func: Any, kwargs: Mapping[str, Any]) -> bool:
    if func is aten._to_copy.default:  # noqa: SLF001 - operators' names
        return kwargs.get("device") == CPU
    return func is aten._local_scalar_dense.default  # noqa: SLF001


@cache
def _written(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that `func` writes to."""
    arguments = enumerate(func._schema.arguments)  # noqa: SLF001 - it has no public name
    return tuple((i, a.name) for i, a in arguments if a.alias_info and a.alias_info.is_write)


def _changed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that `func` writes to."""
    changed: list[torch.Tensor] = []
    for index, name in _written(func):
        given = args[index] if index < len(args) else kwargs.get(name)
        changed += [leaf for leaf in tree_leaves(given) if torch.is_tensor(leaf)]
    return changed


def _made(out: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors of `out` that are on storages of their own."""
    seen = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
    made = []
    for leaf in tree_leaves(out):
        if torch.is_tensor(leaf) and _address(leaf) not in seen:
            seen.add(_address(leaf))
            made.append(leaf)
    return made


def _address(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata  # noqa: SLF001 - it has no public name
    return address


def _twin(leaf: Any) -> Any:
    """A tensor of the same kind on the meta device; anything else as it is."""
    if not torch.is_tensor(leaf):
        return leaf
    return torch.empty_strided(leaf.size(), leaf.stride(), dtype=leaf.dtype, device=META)


def _without_data(leaf: Any) -> Any:
    return _twin(leaf) if torch.is_tensor(leaf) and not leaf.is_meta else leaf


def _random(like: torch.Tensor) -> Callable[[], torch.UntypedStorage]:
    """How to make a storage like that of `like`, full of small random numbers, or zeros."""
    size, dtype = like.untyped_storage().nbytes() // like.dtype.itemsize, like.dtype

    def make() -> torch.UntypedStorage:
        tensor = torch.zeros(size, dtype=dtype, device=CPU)
        if dtype.is_floating_point:
            tensor.normal_(std=STANDARD_DEVIATION, generator=torch.Generator())
        return tensor.untyped_storage()

    return make


def _takes_long(func: Any, tensors: Iterable[torch.Tensor]) -> bool:
    """Whether it factorises a large matrix. What comes of random weights is as good as random."""
    large = any(tensor.numel() > LARGE for tensor in tensors)
    return large and "linalg" in func.name() and "norm" not in func.name()
