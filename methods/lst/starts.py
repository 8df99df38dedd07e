"""What `initialise` does before training, given a model with a ladder and examples."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpoint import CONFIG, LadderError, options_of, read_about
from .config import LstConfig
from .loading import check_same, tensors_for
from .pruning import cut_from_backbone, fisher_information
from .reserving import FOLDER

Batches = Iterable[Mapping[str, torch.Tensor]]


def initialisation(config: LstConfig) -> Callable[[nn.Module, Batches], None] | None:
    """What `config.initialise` asks for; None: the ladder starts as drawn."""
    return _STARTS.get(config.initialise)


def unsupported_weights(config: LstConfig, weights: Path) -> str | None:
    """Why the backbone's folder has no ladder that `config` could start from, or None."""
    if config.initialise != "reserved":
        return None
    folder = weights / FOLDER
    if not (folder / CONFIG).is_file():
        return f"initialise=reserved: its folder has no {FOLDER}/{CONFIG}"
    try:
        check_same(folder, options_of(read_about(folder), folder), config)
    except LadderError as error:
        return f"initialise=reserved: {error}"
    return None


def _by_fisher_information(model: nn.Module, batches: Batches) -> None:
    cut_from_backbone(model, fisher_information(model, batches))


def _by_magnitude(model: nn.Module, batches: Batches) -> None:
    del batches
    cut_from_backbone(model)


def _reserved(model: Any, batches: Batches) -> None:
    """The ladder in the backbone's folder; a backbone that was drawn has none.

    Raises:
        LadderError: no whole ladder in the folder, or one that computes something else.
    """
    del batches
    folder = model.config.name_or_path
    if folder:
        ladder = model.ladders[model.ladders.active]
        ladder.load_state_dict(tensors_for(model, ladder, Path(folder) / FOLDER))


_STARTS = {"fisher": _by_fisher_information, "magnitude": _by_magnitude, "reserved": _reserved}
