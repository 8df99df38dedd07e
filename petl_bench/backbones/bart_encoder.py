"""BART's encoder as a classifier, the LST paper's second backbone.

The task head, two layers on the first token, is new with the task. Source: Sung et al. 2022,
arXiv:2206.06522, section 4.1 and table 2; bart-large's encoder and head have 204,730,370
parameters, as in the authors' code.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from petl_bench.backbones import bart, shape
from petl_bench.backbones.build import classification_batch, from_config
from petl_bench.backbones.dims import Dims
from petl_bench.backbones.family import Family
from petl_bench.backbones.ports import Ports
from petl_bench.case import Backbone, ConfigValue

_FIELDS = bart.ENCODER_FIELDS | {"num_labels": 2}


def _normalise(config: Mapping[str, Any]) -> dict[str, ConfigValue]:
    found = shape.read({**config, "num_labels": shape.labels(config)}, _FIELDS)
    shape.check_divides(found, "encoder_attention_heads", "d_model")
    return found


def _dims(config: Mapping[str, Any]) -> Dims:
    D, labels = config["d_model"], config["num_labels"]
    return bart.dims(
        config,
        ("encoder",),
        labels=labels,
        task_head_parameters=D * D + D + D * labels + labels,
        language_head=False,
    )


def _class() -> Any:
    from petl_bench.backbones.bart_classifier import (  # noqa: PLC0415 - imports transformers
        BartEncoderForSequenceClassification,
    )

    return BartEncoderForSequenceClassification


def _build(backbone: Backbone) -> nn.Module:
    from transformers import BartConfig  # noqa: PLC0415 - only workers need it

    return from_config(_class()._from_config, BartConfig(**backbone.config), backbone)  # noqa: SLF001


def _ports(model: nn.Module) -> Ports:
    classifier: Any = model
    branches = bart.sublayers("encoder", classifier.encoder)
    return Ports(
        dims=_dims(_normalise(classifier.config.to_dict())),
        sublayers=branches,
        norms=tuple(sublayer.norm for sublayer in branches),
        stacks=(bart.stack_port("encoder", classifier.encoder),),
        language_head=None,
        task_head=classifier.classifier,
        peft_task="SEQ_CLS",
    )


FAMILY = Family(
    name="bart-encoder",
    architectures=("BartEncoderForSequenceClassification",),
    published={"bart-large-encoder": _normalise(bart.LARGE)},
    normalise=_normalise,
    dims=_dims,
    build=_build,
    ports=_ports,
    batch=classification_batch,
    own_class=_class,
    targets=False,
    longest=lambda config: config["max_position_embeddings"],
)
