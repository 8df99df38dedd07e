"""Ladders from folders: beside a model at hand, or with the backbone that the folder names."""

from pathlib import Path
from typing import Any

from torch import nn

from .checkpoint import (
    BackboneIdentity,
    LadderError,
    options_of,
    read_folder,
)
from .ladders import attach_lst


def load_lst(model: Any, folder: str | Path, name: str | None = None) -> nn.Module:
    """Put the ladder of `folder` beside `model`, under its own name or `name`; returns the model.

    Raises:
        LadderError: no whole ladder in the folder, or one that grew beside another backbone.
    """
    about, tensors = read_folder(folder)
    config = options_of(about, folder)
    other = about.backbone.differs_from(BackboneIdentity.of(model))
    if other:
        beside = about.backbone.name_or_path or about.backbone.class_name
        raise LadderError(f"{folder} holds a ladder for {beside}; this is another: {other}")
    name = name or about.name
    attach_lst(model, name, **config.model_dump())
    ladder = model.ladders[name]
    expected = {key: tensor.shape for key, tensor in ladder.state_dict().items()}
    if expected != {key: tensor.shape for key, tensor in tensors.items()}:
        model.ladders.remove(name)
        raise LadderError(f"{folder}: its tensors are not those of its options")
    ladder.load_state_dict(tensors)
    return model  # type: ignore[no-any-return]


def from_pretrained(folder: str | Path, **options: Any) -> nn.Module:
    """The ladder of `folder` beside a fresh copy of the backbone that it names.

    `options` go to the backbone's own `from_pretrained`, for example `dtype=torch.bfloat16`.

    Raises:
        LadderError: as `load_lst`; or the backbone's class is not one of transformers'.
    """
    import transformers  # noqa: PLC0415 - seconds that only the caller should pay

    about, _ = read_folder(folder)
    kind: Any = getattr(transformers, about.backbone.class_name, object)
    if transformers.PreTrainedModel not in getattr(kind, "__mro__", ()):
        raise LadderError(f"{folder}: transformers has no model class {about.backbone.class_name}")
    if not about.backbone.name_or_path:
        raise LadderError(f"{folder}: its backbone has no name or path; load it and use load_lst")
    return load_lst(kind.from_pretrained(about.backbone.name_or_path, **options), folder)
