"""RoBERTa as a classifier: BERT's encoder with another vocabulary, and a task head of two layers.

No pooler: the head's own first layer, new with the task, stands in its place.
Source: Liu et al. 2019, arXiv:1907.11692, section 3; dimensions from the published
configurations, whose 514 positions are 512 and two that padding takes.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from petl_bench.backbones import bert
from petl_bench.backbones.build import classification_batch, from_config
from petl_bench.backbones.family import Family
from petl_bench.case import Backbone, ConfigValue

_POSITIONS_OF_PADDING = 2


def _published(hidden: int, layers: int, heads: int) -> dict[str, ConfigValue]:
    return bert.published(
        hidden,
        layers,
        heads,
        vocab_size=50265,
        max_position_embeddings=514,
        type_vocab_size=1,
    )


def _normalise(config: Mapping[str, Any]) -> dict[str, ConfigValue]:
    found = bert.normalise(config)
    positions = found["max_position_embeddings"]
    assert isinstance(positions, int)
    if positions <= _POSITIONS_OF_PADDING:
        raise ValueError(f"max_position_embeddings must be more than 2 (got {positions})")
    return found


def _build(backbone: Backbone) -> nn.Module:
    from transformers import (  # noqa: PLC0415 - only workers need it
        AutoModelForSequenceClassification,
        RobertaConfig,
    )

    config = RobertaConfig(**backbone.config)
    return from_config(AutoModelForSequenceClassification.from_config, config, backbone)


_dims = partial(bert.dims, pooler=False, head_layers=2)

FAMILY = Family(
    name="roberta",
    architectures=("RobertaForSequenceClassification",),
    published={
        "roberta-base": _published(768, 12, 12),
        "roberta-large": _published(1024, 24, 16),
    },
    normalise=_normalise,
    dims=_dims,
    build=_build,
    ports=partial(bert.ports, dims_of=lambda config: _dims(_normalise(config))),
    batch=classification_batch,
    targets=False,
    longest=lambda config: config["max_position_embeddings"] - _POSITIONS_OF_PADDING,
)
