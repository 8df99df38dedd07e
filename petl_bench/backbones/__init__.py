"""Backbones by name: the built-in ones, and folders that hold a transformers config.json.

Each file beside this one is one family: its published dimensions, how to build it with random
weights, and its ports.
"""

import json
from pathlib import Path

from torch import nn

from petl_bench.backbones import t5
from petl_bench.backbones.family import Family
from petl_bench.backbones.ports import Ports
from petl_bench.case import Attention, Backbone, DType
from petl_bench.errors import UsageError, hint

FAMILIES: dict[str, Family] = {family.name: family for family in (t5.FAMILY,)}


def names() -> tuple[str, ...]:
    """Names of the built-in backbones."""
    return tuple(name for family in FAMILIES.values() for name in family.published)


def find(
    name: str, *, dtype: DType = DType.FP32, attention: Attention = Attention.EAGER
) -> Backbone:
    """The backbone called `name`, or the one whose config.json lies in the folder `name`.

    Raises:
        UsageError: neither a built-in name nor a folder with a config of a known family.
    """
    for family in FAMILIES.values():
        if name in family.published:
            return Backbone(
                name=name,
                family=family.name,
                config=dict(family.published[name]),
                dtype=dtype,
                attention=attention,
            )
    folder = Path(name)
    if folder.is_dir():
        return _from_folder(folder, dtype, attention)
    raise UsageError(f"backbone: no backbone or folder {name!r}; {hint(name, names())}")


def ports_of(model: nn.Module) -> Ports:
    """The ports of a transformers model, however it was made.

    Raises:
        ValueError: no family of ours knows the model's architecture.
    """
    config = getattr(model, "config", None)
    family = FAMILIES.get(str(getattr(config, "model_type", None)))
    if family is None:
        known = ", ".join(FAMILIES)
        raise ValueError(f"no ports for {type(model).__name__}; known model types are: {known}")
    return family.ports(model)


def _from_folder(folder: Path, dtype: DType, attention: Attention) -> Backbone:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except OSError as error:
        raise UsageError(f"backbone: cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"backbone: {path} is not a transformers config with a model_type"
        ) from None
    family = FAMILIES.get(str(model_type))
    if family is None:
        known = ", ".join(FAMILIES)
        raise UsageError(f"backbone: {path} has model_type {model_type!r}; known are: {known}")
    try:
        shape = family.normalise(config)
    except (ValueError, TypeError) as error:
        raise UsageError(f"backbone: {path}: {error}") from None
    return Backbone(
        name=folder.resolve().name,
        family=family.name,
        config=shape,
        dtype=dtype,
        attention=attention,
    )
