"""Operators whose results are remembered: what `meta` would say again is not worked out again.

Many operators have a meta kernel in Python that takes a hundred microseconds, and run with the
same shapes layer after layer and step after step. The sizes, strides and dtypes of what a pure
operator returns follow from those of its tensors and from its other arguments, so from the second
time on its results are made from what was seen the first time. One that writes into its tensors
says nothing on meta but whether their shapes go together, and is asked once.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch

_Form = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
_PLAIN_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})
_TYPES_OF_VALUES = frozenset(
    {int, float, bool, str, type(None)}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format}
)

MOST_FORMS = 1024
"""Of one operator. A step meets some tens; a worker that serves thousands of cases forgets."""

MOST_LISTS = 64
"""Likewise of one that writes into all of an optimizer's tensors at once."""


@cache
def remembering(func: Any) -> Callable[..., Any]:
    """The operator `func`, which remembers; itself where a result may be more than its form."""
    schema = func._schema
    pure = not schema.is_mutable and all(
        each.alias_info is None and isinstance(each.type, torch.TensorType)
        for each in schema.returns
    )
    if schema.returns and pure:
        return _Remembering(func)
    return _Writing(func) if _writes_data_alone(func) else func


def _writes_data_alone(func: Any) -> bool:
    """Whether `func` is of those in place that return nothing, or the one that they write into."""
    schema = func._schema
    in_place = schema.is_mutable and schema.name.startswith("aten::") and schema.name.endswith("_")
    if not in_place or torch.Tag.inplace_view in func.tags:  # as transpose_ and resize_ are
        return False
    if not schema.returns:
        return True
    written = [each for each in schema.arguments if each.is_write]
    target, returned = schema.arguments[0].alias_info, [each.alias_info for each in schema.returns]
    if written != schema.arguments[:1] or len(returned) != 1 or returned[0] is None:
        return False
    return bool(returned[0].before_set == target.before_set)


class _Remembering:
    def __init__(self, func: Any) -> None:
        self._func = func
        # None: not to be made from forms alone.
        self._forms: dict[Any, tuple[_Form, ...] | None] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            key = _form(args), _form(kwargs.values()), tuple(kwargs)
        except TypeError:
            return self._func(*args, **kwargs)
        forms = self._forms.get(key)
        if forms is None:
            out = self._func(*args, **kwargs)
            if key not in self._forms:
                if len(self._forms) == MOST_FORMS:
                    self._forms.clear()
                results = (out,) if isinstance(out, torch.Tensor) else out
                self._forms[_kept(key)] = _forms(results, _storages((*args, *kwargs.values())))
            return out
        made = [
            torch.empty_strided(size, stride, dtype=dtype, device="meta")
            for size, stride, dtype in forms
        ]
        return made[0] if len(made) == 1 else tuple(made)


class _Writing:
    def __init__(self, func: Any) -> None:
        self._func = func
        self._returns = bool(func._schema.returns)
        self._fine: set[Any] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            # Numbers such as Adam's step size differ in every step, and change no form.
            key = _form(args, floats=False), _form(kwargs.values(), floats=False), tuple(kwargs)
        except TypeError:
            return self._func(*args, **kwargs)
        written = args[0] if self._returns else None
        if key in self._fine:
            return written
        self._func(*args, **kwargs)
        if _form(args, floats=False) == key[0]:  # else it has changed more than data
            if len(self._fine) == (MOST_FORMS if self._returns else MOST_LISTS):
                self._fine.clear()
            self._fine.add(_kept(key))
        return written


def _form(values: Iterable[Any], *, floats: bool = True) -> tuple[Any, ...]:
    """What a result may depend on of arguments; without `floats`, of those the type alone.

    Raises:
        TypeError: one of them is neither a plain tensor on meta nor a value that can be told.
    """
    form: list[Any] = []
    for value in values:
        kind = type(value)
        if kind in _PLAIN_TENSORS and value.is_meta and value.layout is torch.strided:
            form.append((value.shape, value.stride(), value.dtype))
        elif kind in _TYPES_OF_VALUES:
            # True is not 1, nor is 1.0.
            form.append((kind, value) if floats or kind is not float else kind)
        elif kind is list or kind is tuple:
            form.append(_form(value, floats=floats))
        else:
            raise TypeError(kind)
    return tuple(form)


def _kept(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """An equal key without `torch.Size`s, so that no search for cycles goes through it."""
    return tuple(_kept(part) if isinstance(part, tuple) else part for part in key)


def _forms(results: Iterable[Any], used: set[int]) -> tuple[_Form, ...] | None:
    """The forms of results that have storages of their own, and only if `used` are some others."""
    results = list(results)
    if not used or not all(map(_is_plain, results)) or used & _storages(results):
        return None
    return tuple((tuple(result.shape), result.stride(), result.dtype) for result in results)


def _is_plain(result: Any) -> bool:
    """Whether `result` is a tensor on meta, and all of its storage."""
    if type(result) is not torch.Tensor or not result.is_meta or result.layout != torch.strided:
        return False
    if result.is_complex() or result.storage_offset():
        return False
    like = torch.empty_strided(result.shape, result.stride(), dtype=result.dtype, device="meta")
    return like.untyped_storage().nbytes() == result.untyped_storage().nbytes()


def _storages(values: Iterable[Any]) -> set[int]:
    """Addresses of the tensors' storages, those in lists too."""
    found: set[int] = set()
    for value in values:
        if isinstance(value, torch.Tensor):
            found.add(value.untyped_storage()._cdata)
        elif isinstance(value, list | tuple):
            found |= _storages(value)
    return found
