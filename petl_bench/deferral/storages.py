"""What state each storage is in."""

import torch

from petl_bench.deferral.lineage import Note, Notes, State, View, random_storage
from petl_bench.deferral.meta import CPU, address


class Storages:
    """The state of every storage, by its address.

    The storage is kept with it, or its address would be given again.
    """

    def __init__(self) -> None:
        self._states: dict[int, tuple[torch.UntypedStorage, State]] = {}
        self._holding: dict[int, tuple[torch.UntypedStorage, int, State]] = {}  # data, by version
        self._noting: dict[int, Notes] = {}  # until it is asked about

    def view(self, tensor: torch.Tensor) -> View:
        """`tensor` as it is now."""
        return View.of(tensor, self._state(tensor))

    def wrote(self, tensor: torch.Tensor, state: State) -> None:
        """The storage of `tensor` is in `state` from here."""
        storage = tensor.untyped_storage()
        self._states[address(storage)] = (storage, state)

    def note(self, target: torch.Tensor, place: tuple[int | View, ...], value: float) -> None:
        """`value` is written to `place` of `target`."""
        at = address(target.untyped_storage())
        if at not in self._noting:
            self._noting[at] = Notes(self._state(target), [])
        notes = self._noting[at]
        notes.notes.append(Note(View.of(target, notes.before), place, value))

    def _state(self, tensor: torch.Tensor) -> State:
        storage = tensor.untyped_storage()
        at = address(storage)
        if not tensor.is_meta:
            return self._held(storage, tensor._version)  # noqa: SLF001 - it has no public name
        if at not in self._states:
            # It was there before: its values count as random, equal for equal sizes.
            key = hash((storage.nbytes(), tensor.dtype))
            self._states[at] = (storage, State(random_storage(tensor), 0, key))
        elif notes := self._noting.pop(at, None):
            self._states[at] = (storage, notes.end())
        return self._states[at][1]

    def _held(self, storage: torch.UntypedStorage, version: int) -> State:
        """The state of a storage with data, which may be written to again."""
        known = self._holding.get(address(storage))
        if known is None or known[1] != version:
            copy = storage.clone()
            data = torch.empty(0, dtype=torch.uint8, device=CPU).set_(copy).numpy().tobytes()
            known = (storage, version, State(lambda: copy, 0, hash(data)))
            self._holding[address(storage)] = known
        return known[2]
