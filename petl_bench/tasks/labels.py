"""What a row of a data set says: texts, and what is asked for."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from petl_bench.errors import UsageError
from petl_bench.tasks.files import Row
from petl_bench.tasks.task import Kind, Task

_SHOWN = 8  # labels in a message
_SHORT = 60  # characters of a text in a message


class Example(NamedTuple):
    """Texts, what is asked for, and what belongs to it.

    `label` is a class's number, a regression's value or the right choice's number; or the answers
    that count as right, the first one to be learnt; or entities, each with its class's name.
    """

    texts: tuple[str, ...]
    label: Any
    images: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    # Characters of the last text, from and to (not included), and a class's number.
    places: tuple[tuple[int, int, int], ...] = ()


def target(task: Task, example: Example) -> Any:
    """What a model that is right says of `example`; hashable."""
    return example.label[0] if task.kind in {Kind.SPAN, Kind.WORDS} else example.label


def classes(task: Task, train: Iterable[Row]) -> tuple[str, ...]:
    """The task's classes in the order of their numbers; none where there are none.

    Raises:
        UsageError: a row without a label.
    """
    if task.kind is Kind.CHOICE:
        return tuple(str(number) for number in range(1, task.most_choices + 1))
    if task.kind not in {Kind.CLASS, Kind.ENTITIES}:
        return ()
    if task.labels is not None:
        return task.labels
    found = {str(_field(row, task.label)) for row in train}
    return tuple(sorted(found, key=lambda name: (name.isdecimal() and int(name), name)))


def examples(
    task: Task, names: tuple[str, ...], row: Row, *, trains: bool = False
) -> Iterator[Example]:
    """The examples in `row` as the task reads them: one of most tasks.

    In what `trains`, an answer must have a place in the text, and may be an example of its own.

    Raises:
        UsageError: a field that is missing or of another kind, or an unknown label; the message
            says where.
    """
    rows = [row]
    if task.adapt is not None:
        try:
            rows = [Row(row.where, fields) for fields in task.adapt(row.fields)]
        except ValueError as error:
            raise UsageError(f"data: {row.where}: {error}") from None
    for each in rows:
        example = _example(task, names, each, trains=trains)
        if trains and task.each:
            yield from (example._replace(label=(label,)) for label in example.label)
        else:
            yield example


def _example(task: Task, names: tuple[str, ...], row: Row, *, trains: bool) -> Example:
    texts = tuple(_text(row, name) for name in task.texts)
    seen = () if task.image is None else images(task.image, row)
    if task.kind is Kind.CHOICE:
        choices = _choices(task, row)
        return Example(texts, _choice(task, row, len(choices)), seen, choices)
    if task.kind is Kind.SPAN:
        return _span(task, row, Example(texts, ()), trains=trains)
    if task.kind is Kind.ENTITIES:
        return _entities(task, names, row, Example(texts, ()))
    if task.kind is Kind.WORDS:
        return Example(texts, _answers(task, row), seen)
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
    return _checked(row, name, value)


def _checked(row: Row, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"data: {row.where}: {name} is {_shown(value)}, not a text")
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
    if task.kind is Kind.NUMBER:
        return _number(task, row, value)
    text = str(value)
    if text in names:
        return names.index(text)
    if task.labels is not None and text.isdecimal() and int(text) < len(names):
        return int(text)  # by number, as the hub has them
    raise UsageError(
        f"data: {row.where}: {task.label} {text[:_SHORT]!r} is not one of {_of(names)}"
    )


def _of(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _number(task: Task, row: Row, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"data: {row.where}: {task.label} is {value!r}, not a number")
    return number


def _choices(task: Task, row: Row) -> tuple[str, ...]:
    found = _field(row, task.choices)
    if not isinstance(found, list) or not 1 < len(found) <= task.most_choices:
        count = len(found) if isinstance(found, list) else _shown(found)
        raise UsageError(
            f"data: {row.where}: {task.choices} is {count}, not a list of 2 to {task.most_choices}"
        )
    return tuple(_checked(row, task.choices, each) for each in found)


def _choice(task: Task, row: Row, count: int) -> int:
    number = _field(row, task.label)
    if type(number) is not int or not 0 <= number < count:
        raise UsageError(
            f"data: {row.where}: {task.label} is {_shown(number)}, not a number from 0 to"
            f" {count - 1}"
        )
    return number


def _span(task: Task, row: Row, found: Example, *, trains: bool) -> Example:
    """With its answers: in SQuAD's layout, texts and where each starts."""
    answers = _field(row, task.label)
    texts = answers.get("text") if isinstance(answers, Mapping) else None
    starts = answers.get("answer_start") if isinstance(answers, Mapping) else None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise UsageError(
            f"data: {row.where}: {task.label} is not lists text and answer_start of one length"
        )
    if not texts:
        raise UsageError(f"data: {row.where}: {task.label} is empty")
    said = tuple(_checked(row, task.label, text) for text in texts)
    if not trains:
        return found._replace(label=said)
    first, start, text = said[0], starts[0], found.texts[-1]
    if type(start) is not int or start < 0 or text[start : start + len(first)] != first:
        start = text.find(first)  # the hub strips what the starts were counted in
    if start < 0 or not first:
        raise UsageError(
            f"data: {row.where}: answer {first[:_SHORT]!r} is not in its {task.texts[-1]}"
        )
    return found._replace(label=said, places=((start, start + len(first), 0),))


def _entities(task: Task, names: tuple[str, ...], row: Row, found: Example) -> Example:
    """With its entities: CLUENER's {class: {words: [[first, last], ...]}}."""
    (text,) = found.texts
    label = _field(row, task.label)
    if not isinstance(label, Mapping):
        raise UsageError(f"data: {row.where}: {task.label} is {_shown(label)}, not an object")
    places = []
    for name, of_class in label.items():
        if of_class is None:  # Parquet has every class in every row
            continue
        if name not in names:
            raise UsageError(
                f"data: {row.where}: {task.label} {str(name)[:_SHORT]!r} is not one of {_of(names)}"
            )
        if not isinstance(of_class, Mapping):
            raise UsageError(f"data: {row.where}: {name} is {_shown(of_class)}, not an object")
        for words, of_words in of_class.items():
            for place in of_words if isinstance(of_words, list) else [of_words]:
                if not _is_at(place, words, text):
                    raise UsageError(
                        f"data: {row.where}: {words[:_SHORT]!r} is not at {_shown(place)} of it"
                    )
                places.append((place[0], place[1] + 1, names.index(name)))
    said = sorted({(names[number], text[start:end]) for start, end, number in places})
    return found._replace(label=tuple(said), places=tuple(sorted(places)))


def _is_at(place: object, words: str, text: str) -> bool:
    """Whether `place`, the first and the last character, is where `words` are."""
    if not isinstance(place, list) or [type(each) for each in place] != [int, int]:
        return False
    first, last = place
    return 0 <= first <= last < len(text) and text[first : last + 1] == words


def _answers(task: Task, row: Row) -> tuple[str, ...]:
    """Texts, or one; or VQA's objects with a text each. The most frequent one comes first."""
    value = _field(row, task.label)
    found = value if isinstance(value, list) else [value]
    said = [
        _checked(row, task.label, each.get("answer") if isinstance(each, Mapping) else each)
        for each in found
    ]
    if not said:
        raise UsageError(f"data: {row.where}: {task.label} is empty")
    return tuple(sorted(said, key=said.count, reverse=True)) if not task.each else tuple(said)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."
