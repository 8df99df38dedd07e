"""Addresses to methods: a type of peft's, or a folder that peft saved."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, create_model
from torch import nn

from petl_bench.backbones.ports import Ports
from petl_bench.errors import UsageError, hint
from petl_bench.method import Method
from petl_bench.method_spec import first_error
from petl_bench.peft_methods.attaching import get_peft_model
from petl_bench.peft_methods.config import (
    PeftMethodConfig,
    config_class,
    fields_of_files,
    types,
)
from petl_bench.peft_methods.experts import in_folders
from petl_bench.peft_methods.fitting import fit

CONFIG_FILE = "adapter_config.json"

REFUSALS = (
    *(ValueError, TypeError, AttributeError, KeyError),  # of models and fields
    *(ImportError, NotImplementedError),
    OSError,  # a tokenizer or an adapter that is neither here nor reached
)
"""What peft raises where a method cannot be made."""


def names() -> tuple[str, ...]:
    """Peft's types, in alphabetical order."""
    return tuple(sorted(types()))


def find(address: str) -> Method[Any]:
    """The method that `address` names: a type, or where an adapter_config.json lies.

    A file's values are the defaults of the method's fields.

    Raises:
        UsageError: no such type or file, or a file with a field that its type does not have.
    """
    kind = address.lower().replace("-", "_")
    if kind in types():
        return _method(config_class(kind))
    path = Path(address).expanduser()
    if path.is_dir():
        path /= CONFIG_FILE
    if path.suffix == ".json" or "/" in address:
        return _from_file(path)
    raise UsageError(f"method: peft has no type {address!r}; {hint(kind, names())}")


def _from_file(path: Path) -> Method[Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        kind = str(document["peft_type"]).lower()
    except OSError as error:
        raise UsageError(f"peft: cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"peft: {path} is not JSON with a peft_type") from None
    if kind not in types():
        raise UsageError(f"peft: {path}: peft has no type {kind!r}; {hint(kind, names())}")
    plain = config_class(kind)
    given = {name: value for name, value in document.items() if name not in fields_of_files()}
    unknown = [name for name in given if name not in plain.model_fields]
    if unknown:
        near = hint(unknown[0], plain.model_fields)
        raise UsageError(f"peft: {path}: {kind} has no field {unknown[0]!r}; {near}")
    try:
        values = plain.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"peft: {path}: {first_error(error)}") from None
    fields: dict[str, Any] = {}
    for name in given:
        known = plain.model_fields[name]
        default = Field(getattr(values, name), description=known.description)
        fields[name] = (known.annotation, default)
    return _method(create_model(plain.__name__, __base__=plain, **fields))


def _method(config: type[PeftMethodConfig]) -> Method[Any]:
    peft_class = config.peft_class
    return Method(
        name=config.address,
        title=f"{peft_class.__name__.removesuffix('Config')} (peft)",
        source=f"{peft_class.__module__.removesuffix('.config')}, as installed",
        config=config,
        attach=attach,
        fit=fit,
    )


def attach(model: nn.Module, ports: Ports, config: PeftMethodConfig) -> nn.Module:
    """Peft's model, as `get_peft_model` makes it.

    Raises:
        UsageError: peft refuses the model, or leaves nothing in it to train.
    """
    try:
        with in_folders(config.peft_config(ports.peft_task), ports.peft_task) as peft_config:
            wrapped = get_peft_model(model, ports, peft_config)
    except REFUSALS as error:
        raise UsageError(
            f"{config.address}: peft refuses: {' '.join(str(error).split())}"
        ) from error
    if not any(parameter.requires_grad for parameter in wrapped.parameters()):
        raise UsageError(f"{config.address}: nothing of this backbone would train")
    if {"n_tasks", "num_tasks"} & set(type(config).model_fields):
        wrapped.register_forward_pre_hook(_of_first_task, with_kwargs=True)
    return wrapped


def _of_first_task(
    model: nn.Module, args: tuple[Any, ...], batch: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same batch with the tasks of its examples, which methods of many tasks ask for."""
    del model
    ids_BT = batch["input_ids"]
    return args, {**batch, "task_ids": ids_BT.new_zeros(len(ids_BT))}
