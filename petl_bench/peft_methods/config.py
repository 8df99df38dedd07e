"""Peft's config classes as method configs: the same fields, checked, without those for files."""

import dataclasses
import json
import re
import typing
import warnings
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union

from pydantic import Field, create_model, field_validator, model_validator

from petl_bench.method import MethodConfig

PeftConfigClass = type[Any]

# Where peft asks for a value and has none: what we take instead, by the field's name.
OWN_DEFAULTS: dict[str, Any] = {
    "num_virtual_tokens": 20,
    "total_step": 1000,
    "adapter_len": 10,
    "adapters": {"0": "peft:lora", "1": "peft:lora"},  # new ones, in the place of folders
    "token_indices": list(range(10)),
    "cpt_token_ids": list(range(8)),
    "cpt_mask": [1] * 8,
    "cpt_tokens_type_mask": [1, 2, 3, 4] * 2,
}

_FIRST_SENTENCE = re.compile(r"(?<=[^.]{3})\.(?=\s|[A-Z])")
_LIST = re.compile(r"[\w.-]+(\s*,\s*[\w.-]+)*")


class PeftMethodConfig(MethodConfig):
    """Fields of one of peft's config classes."""

    peft_class: ClassVar[PeftConfigClass]
    address: ClassVar[str]  # the method's name on the command line

    def settings(self) -> dict[str, Any]:
        """What differs from peft's own defaults, by field, in JSON's types."""
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if value != _json_default(self._fields()[name])
        }

    def peft_config(self, task: str = "CAUSAL_LM") -> Any:
        """Peft's own object, which checks itself, for a model of peft's TaskType `task`.

        Raises:
            ValueError: peft's own, if the fields do not go together.
        """
        settings = self.settings()
        for name, value in settings.items():
            made = _dataclass_in(typing.get_type_hints(self.peft_class)[name])
            if made is not None and isinstance(value, dict):
                settings[name] = made(**value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they tell users what to do before training
            return self.peft_class(task_type=task, **settings)

    @classmethod
    def _fields(cls) -> dict[str, "dataclasses.Field[Any]"]:
        return {field.name: field for field in dataclasses.fields(cls.peft_class)}

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: object, info: Any) -> object:
        """Read what the command line writes: true, null, a list, JSON."""
        if not isinstance(value, str):
            return sorted(value) if isinstance(value, (set, frozenset)) else value
        kinds = _kinds(cls.model_fields[info.field_name].annotation)
        if value == "null" and NoneType in kinds:
            return None
        if value in {"true", "false"} and bool in kinds:
            return value == "true"
        if value[:1] in {"{", "["} and kinds & {dict, list}:
            try:
                return json.loads(value)
            except ValueError:
                raise ValueError("not JSON") from None
        listed = "," in value or (int not in kinds and value != ALL_LINEAR)
        if list in kinds and listed and _LIST.fullmatch(value):
            return [part.strip() for part in value.split(",")]
        return value

    @model_validator(mode="after")
    def _agrees_with_peft(self) -> Self:
        try:
            self.peft_config()
        except (ImportError, TypeError) as error:
            raise ValueError(str(error)) from None
        return self


ALL_LINEAR = "all-linear"
"""Peft's word for every linear layer but the output's."""


@cache
def types() -> dict[str, PeftConfigClass]:
    """Peft's config classes by the names of their types, in small letters."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: PLC0415 - it takes two seconds

    return {kind.value.lower(): found for kind, found in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


@cache
def fields_of_files() -> frozenset[str]:
    """What peft keeps in every config about where it came from, not what it is."""
    from peft import PeftConfig  # noqa: PLC0415 - two seconds that only peft: methods should pay

    return frozenset(field.name for field in dataclasses.fields(PeftConfig))


@cache
def config_class(kind: str) -> type[PeftMethodConfig]:
    """The method config with the fields of peft's type `kind`."""
    peft_class = types()[kind]
    hints = typing.get_type_hints(peft_class)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(peft_class):
        if field.name in fields_of_files():
            continue
        default = _json_default(field) or OWN_DEFAULTS.get(field.name, _json_default(field))
        annotation = _annotation(hints[field.name])
        if default is None and NoneType not in _kinds(annotation):
            annotation = annotation | None
        help_text = _FIRST_SENTENCE.split(_one_line(field.metadata.get("help", "")))[0]
        fields[field.name] = (annotation, Field(default, description=help_text))
    name = f"{peft_class.__name__.removesuffix('Config')}MethodConfig"
    made: type[PeftMethodConfig] = create_model(name, __base__=PeftMethodConfig, **fields)
    made.__doc__ = f"Fields of peft's {peft_class.__name__}."
    made.peft_class, made.address = peft_class, f"peft:{kind}"
    return made


def _one_line(text: str | tuple[str, ...]) -> str:
    return " ".join("".join(text).split())


def _json_default(field: "dataclasses.Field[Any]") -> Any:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if default is dataclasses.MISSING:
        return None
    if is_dataclass(default) and not isinstance(default, type):
        return dataclasses.asdict(default)
    return default.value if isinstance(default, Enum) else default


def _kinds(annotation: Any) -> set[Any]:
    """The types in a union, without their parameters."""
    parts = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    return {typing.get_origin(part) or part for part in parts}


def _dataclass_in(hint: Any) -> type[Any] | None:
    """The dataclass that a field may hold, if it may hold one."""
    parts = typing.get_args(hint) if _is_union(hint) else (hint,)
    return next((part for part in parts if isinstance(part, type) and is_dataclass(part)), None)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in {Union, UnionType}


def _annotation(hint: Any) -> Any:
    """`hint` with what JSON can hold in place of peft's classes."""
    if _is_union(hint):
        return Union[tuple(_annotation(part) for part in typing.get_args(hint))]  # noqa: UP007
    if is_dataclass(hint):
        return dict[str, Any]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Literal[tuple(member.value for member in hint)]
    if typing.get_origin(hint) is Literal and any("[" in str(a) for a in typing.get_args(hint)):
        return str  # a pattern such as "pissa_niter_[number of iters]"
    return hint
