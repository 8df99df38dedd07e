"""Every operator and where it wrote, as code runs."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from petl_bench.deferral.evaluation import Evaluator
from petl_bench.deferral.lineage import Call, State, View, random_storage
from petl_bench.deferral.meta import META, emptied
from petl_bench.deferral.operators import asks_for_data, created, factorises_large, mutated
from petl_bench.deferral.storages import Storages

_NUMBERS = {bool, int, float}
_SEEDS = 1 << 31


class Recorder(TorchDispatchMode):
    """Keeps how every storage came to be, and lets questions about values be answered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = Storages()
        self._evaluator = Evaluator()
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
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - as above
            if not target.is_meta or target.requires_grad or target.dim() != len(place):
                return False
            at: list[int | View] = []
            for index in place:
                if type(index) is int:
                    at.append(index)
                elif torch.is_tensor(index) and index.dtype is torch.int64 and not index.dim():
                    at.append(self._storages.view(index))
                else:
                    return False
            self._storages.note(target, tuple(at), value)
        return True

    def seeded(self, seed: Callable[[int], torch.Generator]) -> Callable[[int], torch.Generator]:
        """`torch.manual_seed`, after which the same numbers are drawn again."""

        def manual_seed(value: int) -> torch.Generator:
            self._draws = itertools.count((value % _SEEDS + 1) * _SEEDS)
            return seed(value)

        return manual_seed

    def _dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not any(tensor.is_meta for tensor in tensors) and kwargs.get("device") != META:
            return func(*args, **kwargs)  # all that it is about holds data
        changed = mutated(func, args, kwargs)
        call = self._call(func, leaves, spec)
        if asks_for_data(func, kwargs):
            return self._evaluator.data(call)
        if not all(tensor.is_meta for tensor in changed):
            raise NotImplementedError(f"{func}: data of a model's size kept in a small tensor")
        if not all(tensor.is_meta for tensor in tensors):
            args, kwargs = tree_unflatten([emptied(leaf) for leaf in leaves], spec)
        try:
            out = func(*args, **kwargs)
        except (NotImplementedError, RuntimeError) as error:
            if not isinstance(error, NotImplementedError) and "meta" not in str(error):
                raise
            out = self._evaluator.form(call)
        if func.is_view:
            return out
        # What comes of random weights is as good as random.
        random = factorises_large(func, tensors)
        for position, tensor in enumerate([*created(out, args, kwargs), *changed]):
            origin = random_storage(tensor) if random else call
            self._storages.wrote(tensor, State(origin, position, hash((call.key, position))))
        return out

    def _call(self, func: Any, flat: Sequence[Any], spec: Any) -> Call:
        leaves, keys = list(flat), [func]
        random = torch.Tag.nondeterministic_seeded in func.tags
        for index, leaf in enumerate(leaves):
            if torch.is_tensor(leaf):
                leaves[index] = self._storages.view(leaf)
                keys.append(leaves[index].key)
            elif isinstance(leaf, torch.Generator):
                leaves[index], random = leaf.clone_state(), False
                keys.append(bytes(leaf.get_state().numpy()))
                leaf.manual_seed(leaf.initial_seed() + 1)  # the next draw is another one
            else:
                keys.append(repr(leaf))
        draw = next(self._draws) if random else 0
        return Call(func, tuple(leaves), spec, draw, hash((draw, *keys)))
