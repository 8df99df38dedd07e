"""What a row of a data set says: texts, and a label as a number."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from petl_bench.errors import UsageError
from petl_bench.tasks.task import Task

_SHOWN = 8  # labels in a message


class Row(NamedTuple):
    """A data set's row as it was read, and where, as in "train.jsonl line 3"."""

    where: str
    fields: Mapping[str, object]


class Example(NamedTuple):
    """One or two texts, a class's number or a regression's value, and names of images."""

    texts: tuple[str, ...]
    label: int | float
    images: tuple[str, ...] = ()


def classes(task: Task, train: Iterable[Row]) -> tuple[str, ...]:
    """The task's classes in the order of their numbers; none where it is a regression.

    Raises:
        UsageError: a row without a label.
    """
    if task.regression:
        return ()
    if task.labels is not None:
        return task.labels
    found = {str(_field(row, task.label)) for row in train}
    return tuple(sorted(found, key=lambda name: (name.isdecimal() and int(name), name)))


def example(task: Task, names: tuple[str, ...], row: Row) -> Example:
    """`row` as the task reads it.

    Raises:
        UsageError: a field that is missing or of another kind, or an unknown label; the message
            says where.
    """
    if task.adapt is not None:
        try:
            row = Row(row.where, task.adapt(row.fields))
        except ValueError as error:
            raise UsageError(f"data: {row.where}: {error}") from None
    texts = tuple(_text(row, name) for name in task.texts)
    seen = () if task.image is None else images(task.image, row)
    return Example(texts, _label(task, names, row), seen)


def _field(row: Row, name: str) -> object:
    if name not in row.fields:
        has = ", ".join(map(str, row.fields)) or "none"
        raise UsageError(f"data: {row.where}: no field {name!r}; its fields are: {has}")
    value = row.fields[name]
    if value is None:
        raise UsageError(f"data: {row.where}: {name} is empty")
    return value


def _text(row: Row, name: str) -> str:
    value = _field(row, name)
    if isinstance(value, list):  # CSL's keywords
        value = ", ".join(map(str, value))
    if not isinstance(value, str):
        raise UsageError(f"data: {row.where}: {name} is {value!r}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON may escape half a surrogate pair; tokenizers take none
        raise UsageError(f"data: {row.where}: {name} is not Unicode text") from None
    return value


def images(field: str, row: Row) -> tuple[str, ...]:
    """Names of the row's images: its field has one name, or a list of them.

    Raises:
        UsageError: it has something else; the message says where.
    """
    value = _field(row, field)
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise UsageError(f"data: {row.where}: {field} is {value!r}, not an image's name or several")
    return tuple(names)


def _label(task: Task, names: tuple[str, ...], row: Row) -> int | float:
    value = _field(row, task.label)
    if task.regression:
        return _number(task, row, value)
    text = str(value)
    if text in names:
        return names.index(text)
    if task.labels is not None and text.isdecimal() and int(text) < len(names):
        return int(text)  # by number, as the hub has them
    known = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    raise UsageError(f"data: {row.where}: {task.label} {text[:60]!r} is not one of {known}")


def _number(task: Task, row: Row, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"data: {row.where}: {task.label} is {value!r}, not a number")
    return number
