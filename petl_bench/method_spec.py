"""The command line's way to write methods: `lora[r=8|32],lst[reduction=4]`.

Grammar: SPEC {"," SPEC}; SPEC = NAME ["[" FIELD "=" VALUE {"|" VALUE} {"," FIELD "=" ...} "]"].
A comma splits fields only before another `FIELD=`, so a value may be a list: `keep=1,2,3`.
"""

import itertools
import re
from typing import Any

from pydantic import ValidationError

from petl_bench import registry
from petl_bench.case import Backbone, MethodChoice
from petl_bench.errors import UsageError
from petl_bench.method import Method, MethodConfig

_SPEC = re.compile(r"\s*([^\s\[\]]+)\s*(?:\[(.*)\])?\s*")
_FIELD = re.compile(r",(?=\s*\w+\s*=)")
_COMMA = re.compile(",")


def _cut(text: str, comma: re.Pattern[str]) -> list[str]:
    """`text` cut where `comma` is, outside brackets."""
    parts, start, depth, seen = [], 0, 0, 0
    for found in comma.finditer(text):
        passed, seen = text[seen : found.start()], found.start()
        depth += sum(passed.count(mark) for mark in "[{") - sum(passed.count(m) for m in "]}")
        if depth == 0:
            parts.append(text[start:seen])
            start = found.end()
    return [*parts, text[start:]]


def split_specs(text: str) -> list[str]:
    """`text` cut at the commas outside brackets.

    >>> split_specs("lst,lora[r=8,alpha=16]")
    ['lst', 'lora[r=8,alpha=16]']
    """
    return [part.strip() for part in _cut(text, _COMMA) if part.strip()]


def parse_specs(text: str) -> list[tuple[str, MethodChoice]]:
    """Label and choice of each method in `text`, grids unrolled, in the order written.

    Raises:
        UsageError: unknown method, unknown field, or a value of the wrong type.
    """
    specs = split_specs(text)
    if not specs:
        raise UsageError(f"methods: none given; there are: {', '.join(registry.names())}")
    return [choice for spec in specs for choice in _parse_spec(spec)]


def resolve(name: str, given: dict[str, Any]) -> MethodChoice:
    """The choice of method `name` with fields `given`, defaults filled in.

    Raises:
        UsageError: unknown method, unknown field, or a value of the wrong type.
    """
    method = registry.get(name)
    config = validated_config(method, given)
    return MethodChoice(name=method.name, config=config.model_dump(mode="json"))


def fitted(choice: MethodChoice, backbone: Backbone) -> MethodChoice:
    """`choice` with what it leaves to the backbone filled in.

    Raises:
        UsageError: the two do not go together.
    """
    method = registry.get(choice.name)
    config = method.fit(backbone, validated_config(method, choice.config))
    return MethodChoice(name=method.name, config=config.model_dump(mode="json"))


def validated_config(method: Method[Any], given: dict[str, Any]) -> MethodConfig:
    """`method`'s configuration with fields `given`.

    Raises:
        UsageError: unknown field, or a value of the wrong type.
    """
    fields = method.config.model_fields
    unknown = [field for field in given if field not in fields]
    if unknown:
        choices = ", ".join(fields) or "none"
        raise UsageError(f"{method.name}: no field {unknown[0]!r}; its fields are: {choices}")
    try:
        config: MethodConfig = method.config.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"{method.name}: {first_error(error)}") from None
    return config


def first_error(error: ValidationError) -> str:
    """The first thing that pydantic found: the field, what is wrong, and what was given."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][:1]) or "configuration"
    got = f" (got {first['input']!r})" if first["loc"] else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}{got}"


def label_fields(label: str) -> list[str]:
    """The fields that a label gives.

    >>> label_fields("lst[reduction=4,keep=1,2,3]")
    ['reduction=4', 'keep=1,2,3']
    """
    match = _SPEC.fullmatch(label)
    return [part.strip() for part in _cut(match[2], _FIELD)] if match and match[2] else []


def _parse_spec(spec: str) -> list[tuple[str, MethodChoice]]:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f"methods: cannot read {spec!r}; write NAME or NAME[field=value,...]")
    name, inside = match[1], match[2] or ""
    axes: dict[str, list[str]] = {}
    for part in filter(None, (p.strip() for p in _cut(inside, _FIELD))):
        field, equals, values = part.partition("=")
        if not equals or not values.strip():
            raise UsageError(f"{name}: cannot read {part!r}; write field=value")
        if field.strip() in axes:
            raise UsageError(f"{name}: field {field.strip()!r} is given twice")
        axes[field.strip()] = [value.strip() for value in values.split("|")]
    choices = []
    for point in itertools.product(*axes.values()):
        given = dict(zip(axes, point, strict=True))
        label = name + (f"[{','.join(f'{f}={v}' for f, v in given.items())}]" if given else "")
        choices.append((label, resolve(name, given)))
    return choices
