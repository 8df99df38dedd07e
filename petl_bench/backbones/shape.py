"""Reading the shape of a network out of a transformers configuration."""

import re
from collections.abc import Mapping
from typing import Any

from petl_bench.case import ConfigValue

REQUIRED = object()
"""Stands for a dimension that has no default: a positive whole number that must be there."""

SMALLEST_VOCABULARY = 3  # batches are drawn from what is left of it without padding and end


def read(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, ConfigValue]:
    """The `fields` of `config`, each by its default's kind.

    A field's default is REQUIRED or a whole number (a positive one), a float (a probability), a
    flag, or a name.

    Raises:
        ValueError: a field that is missing or makes no sense; the message names it.
        TypeError: likewise.
    """
    return {name: _value(name, config, default) for name, default in fields.items()}


def check_divides(config: Mapping[str, Any], part: str, whole: str) -> None:
    """Refuse a `whole` that does not fall into `part` equal parts.

    Raises:
        ValueError: so it is.
    """
    if config[whole] % config[part]:
        raise ValueError(
            f"{whole} must be a multiple of {part} (got {config[whole]} and {config[part]})"
        )


def labels(config: Mapping[str, Any]) -> int:
    """Classes of a classifier: its labels where they are given, else 2."""
    named = config.get("id2label")
    given = config.get("num_labels", len(named) if isinstance(named, dict) else None)
    return given or 2


def _value(name: str, config: Mapping[str, Any], default: Any) -> ConfigValue:
    value = config.get(name, default)
    if value is REQUIRED:
        raise ValueError(f"{name} is missing")
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be true or false (got {value!r})")
    elif default is REQUIRED or isinstance(default, int):
        least = SMALLEST_VOCABULARY if name == "vocab_size" else 1
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be a whole number, at least {least} (got {value!r})")
    elif isinstance(default, float):
        if type(value) not in {int, float} or not 0 <= value < 1:
            raise ValueError(f"{name} must be a number from 0 to below 1 (got {value!r})")
        value = float(value)  # 0 and 0.0 are one network
    elif not isinstance(value, str) or not re.fullmatch(r"\w+", value):
        raise ValueError(f"{name} must be a name (got {value!r})")
    return value  # type: ignore[no-any-return]
