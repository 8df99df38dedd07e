"""Ladder Side-Tuning: a thin network beside a frozen backbone, fed by its layers.

    attach_lst(model)                      a ladder beside any transformers model we have ports of
    model.save_pretrained(folder)          the active ladder alone
    load_lst(model, folder)                back beside the same backbone
    from_pretrained(folder)                with the backbone that the folder names

Source: Sung, Cho & Bansal 2022, arXiv:2206.06522, section 3. Reading order of the files: config,
side (one stack's network), designs and blocks (its layers), rungs, ladder (the whole), ladders
(how it listens to the model and speaks in its place), recording and activations (what it hears,
on disk), pruning, checkpoint and loading, reserving, starts, counts.
"""

from petl_bench.method import Method

from .activations import CacheUse, cached_activations
from .checkpoint import LadderError
from .config import LstConfig
from .counts import trainable_parameters, unsupported
from .ladders import attach, attach_lst, checkpoint_blocks
from .loading import from_pretrained, load_lst
from .pruning import cut_from_backbone, fisher_information
from .reserving import SpanCorruption, joint_training, save_reserved
from .starts import initialisation, unsupported_weights

METHOD = Method(
    name="lst",
    title="Ladder Side-Tuning",
    source="Sung et al. 2022, arXiv:2206.06522, section 3",
    config=LstConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=unsupported,
    unsupported_weights=unsupported_weights,
    checkpoint=checkpoint_blocks,
    initialisation=initialisation,
    learning_rate=3e-3,  # all sizes, in the authors' code
)

__all__ = [
    "METHOD",
    "CacheUse",
    "LadderError",
    "LstConfig",
    "SpanCorruption",
    "attach_lst",
    "cached_activations",
    "cut_from_backbone",
    "fisher_information",
    "from_pretrained",
    "joint_training",
    "load_lst",
    "save_reserved",
]
