"""How storages came to be: states, and the operators and single numbers that made them.

Each can be worked out again from the states that it reads. Keys are hashes of all that a thing
rests on, so that equal layers are worked out once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import torch
from torch.utils._pytree import tree_unflatten

from petl_bench.deferral.meta import CPU, META
from petl_bench.deferral.operators import created, mutated, mutated_arguments

_STANDARD_DEVIATION = 0.02  # of what stands for weights, as transformers draws them


@dataclass(eq=False, slots=True)
class State:
    """What a storage held at one time."""

    origin: "Call | Notes | Callable[[], torch.UntypedStorage]"  # what wrote it, or how to get it
    position: int  # among what the call wrote
    key: int  # equal keys, equal bytes


class View(NamedTuple):
    """A tensor: the state of its storage, and where it lies there."""

    state: State
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: torch.Tensor, state: State) -> "View":
        """`tensor`, whose storage is in `state`."""
        offset = int(tensor.storage_offset())
        return cls(state, tensor.dtype, tensor.size(), tensor.stride(), offset)

    @property
    def key(self) -> int:
        """Equal for tensors with equal values that lie alike in equal bytes."""
        return hash((self.state.key, *self[1:]))

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """The tensor, of what `storage` holds."""
        tensor = torch.empty(0, dtype=self.dtype, device=CPU)
        tensor.set_(storage, self.offset, self.size, self.stride)
        return tensor


Bytes = Mapping[State, torch.UntypedStorage]


@dataclass(frozen=True, eq=False)
class Call:
    """An operator with its arguments as they were."""

    func: Any
    leaves: tuple[Any, ...]  # of the arguments, a View for each tensor
    spec: Any  # puts them in their places
    draw: int  # tells random operators with equal arguments apart
    key: int  # equal keys, equal results

    @property
    def reads(self) -> list[State]:
        """The states that its arguments were in."""
        return [leaf.state for leaf in self.leaves if isinstance(leaf, View)]

    def result(self, storages: Bytes) -> Any:
        """What it returns, where `storages` hold what it reads."""
        return self._run(storages)[0]

    def written(self, storages: Bytes) -> list[torch.UntypedStorage]:
        """What it makes, then what it changes; `storages` stay as they are."""
        if mutated_arguments(self.func):
            storages = {state: storages[state].clone() for state in self.reads}
        out, args, kwargs = self._run(storages)
        tensors = [*created(out, args, kwargs), *mutated(self.func, args, kwargs)]
        return [tensor.untyped_storage() for tensor in tensors]

    def _run(self, storages: Bytes) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        leaves = list(self.leaves)
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, View):
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


class Note(NamedTuple):
    """One number written to one place of a tensor."""

    target: View
    place: tuple[int | View, ...]
    value: float

    @property
    def key(self) -> int:
        """Equal for the same number at the same place of equal tensors."""
        return hash((self.target.key, *map(_place_key, self.place), self.value))


@dataclass(eq=False, slots=True)
class Notes:
    """Numbers that were written one after the other to what held `before`."""

    before: State
    notes: list[Note]

    @property
    def reads(self) -> list[State]:
        """The state before the first of them, and those that say the places."""
        views = {id(at.state): at.state for note in self.notes for at in note.place if _is_view(at)}
        return [self.before, *views.values()]

    def written(self, storages: Bytes) -> list[torch.UntypedStorage]:
        """What the storage holds after them; `storages` stay as they are."""
        storage = storages[self.before].clone()
        for target, place, value in self.notes:
            found = [_place(at, storages) for at in place]
            target.on(storage)[tuple(found)] = value
        return [storage]

    def end(self) -> State:
        """What the storage holds when nothing more is noted."""
        return State(self, 0, hash(tuple(note.key for note in self.notes)))


def _place(at: int | View, storages: Bytes) -> int:
    return int(at.on(storages[at.state])) if isinstance(at, View) else at


def _place_key(at: int | View) -> int:
    return at.key if _is_view(at) else hash(at)


def _is_view(at: Any) -> TypeGuard[View]:
    return isinstance(at, View)


def random_storage(like: torch.Tensor) -> Callable[[], torch.UntypedStorage]:
    """How to make a storage like that of `like`, full of small random numbers, or zeros."""
    size, dtype = like.untyped_storage().nbytes() // like.dtype.itemsize, like.dtype

    def make() -> torch.UntypedStorage:
        tensor = torch.zeros(size, dtype=dtype, device=CPU)
        if dtype.is_floating_point:
            tensor.normal_(std=_STANDARD_DEVIATION, generator=torch.Generator())
        return tensor.untyped_storage()

    return make
