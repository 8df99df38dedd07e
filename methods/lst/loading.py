"""Ladders from folders: beside a model at hand, or with the backbone that the folder names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import class_named, ports_of

from .checkpoint import (
    BackboneIdentity,
    LadderError,
    LadderFile,
    options_of,
    read_folder,
)
from .config import LstConfig
from .ladder import Ladder
from .ladders import attach_lst

Tensors = Mapping[str, torch.Tensor]

_HEAD = "head."  # what a task head's tensors are called in a ladder
_HOW_IT_TRAINS = {
    "variant",  # a name of other options
    "initialise",
    "backbone_dropout",
    "attention",
    "checkpoint",
    "rung_inputs",
}
"""Options that leave what a trained ladder computes as it is."""


def load_lst(model: Any, folder: str | Path, name: str | None = None) -> nn.Module:
    """Put the ladder of `folder` beside `model`, under its own name or `name`; returns the model.

    A ladder that was pre-trained beside a language head gets a new head beside a classifier.

    Raises:
        LadderError: no whole ladder in the folder, or one that grew beside another backbone.
    """
    about, tensors = _read(model, folder)
    name = name or about.name
    attach_lst(model, name, **options_of(about, folder).model_dump())
    ladder = model.ladders[name]
    try:
        loaded = _fitted(model, ladder, about, tensors, folder)
    except LadderError:
        model.ladders.remove(name)
        raise
    ladder.load_state_dict(loaded)
    return model  # type: ignore[no-any-return]


def tensors_for(model: Any, ladder: Ladder, folder: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of `folder` for `ladder`, which is beside `model` and of the same options.

    Raises:
        LadderError: as `load_lst`; or the folder's ladder computes something else.
    """
    about, tensors = _read(model, folder)
    check_same(folder, options_of(about, folder), ladder.config)
    return _fitted(model, ladder, about, tensors, folder)


def check_same(folder: str | Path, theirs: LstConfig, ours: LstConfig) -> None:
    """Refuse the ladder of `folder`, of options `theirs`, where `ours` computes something else.

    Raises:
        LadderError: it does; the message names the option.
    """
    for option in LstConfig.model_fields:
        there, here = getattr(theirs, option), getattr(ours, option)
        if option not in _HOW_IT_TRAINS and there != here:
            raise LadderError(f"{folder} holds a ladder of {option}={there}, not {option}={here}")


def _read(model: Any, folder: str | Path) -> tuple[LadderFile, dict[str, torch.Tensor]]:
    about, tensors = read_folder(folder)
    other = about.backbone.differs_from(BackboneIdentity.of(model))
    if other:
        beside = about.backbone.name_or_path or about.backbone.class_name
        raise LadderError(f"{folder} holds a ladder for {beside}; this is another: {other}")
    return about, tensors


def _fitted(
    model: Any, ladder: Ladder, about: LadderFile, tensors: Tensors, folder: str | Path
) -> dict[str, torch.Tensor]:
    """`tensors`, with the ladder's own head where theirs was a language head."""
    own = ladder.state_dict()
    loaded = dict(tensors)
    if about.backbone.class_name != type(model).__name__:
        loaded = {key: value for key, value in own.items() if key.startswith(_HEAD)} | loaded
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in loaded.items()}:
        raise LadderError(f"{folder}: its tensors are not those of its options")
    return loaded


def from_pretrained(folder: str | Path, **options: Any) -> nn.Module:
    """The ladder of `folder` beside a fresh copy of the backbone that it names.

    `options` go to the backbone's own `from_pretrained`, for example `dtype=torch.bfloat16`.

    Raises:
        LadderError: as `load_lst`; or the backbone's class is unknown, or its folder lacks what
            would be drawn anew, such as the pooler of a BERT that was pre-trained without one.
    """
    about, _ = read_folder(folder)
    path = about.backbone.name_or_path
    try:
        kind = class_named(about.backbone.class_name)
    except ValueError as error:
        raise LadderError(f"{folder}: {error}") from None
    if not path:
        raise LadderError(f"{folder}: its backbone has no name or path; load it and use load_lst")
    model, found = kind.from_pretrained(path, output_loading_info=True, **options)
    drawn = set(found["missing_keys"]) - _held_by_ladders(model)
    if drawn:
        raise LadderError(
            f"{folder}: {path} has no {min(drawn)}, so that each load draws another; save the"
            " whole model once, load that, and use load_lst"
        )
    return load_lst(model, folder)


def _held_by_ladders(model: Any) -> set[str]:
    """Names of what is new with the task, of which every ladder has its own."""
    ports = ports_of(model)
    extra = None if ports.extra_input is None else ports.extra_input.embedding
    held = {p for part in (ports.task_head, extra) if part is not None for p in part.parameters()}
    return {name for name, parameter in model.named_parameters() if parameter in held}
