"""BERT and RoBERTa as they are pre-trained: an encoder that fills in masked tokens.

The head, a layer with a norm and the embedding's transpose, belongs to the backbone. There is no
pooler. A hub's configuration names this architecture also where it is fetched for a classifier, so
a `model_type` bert or roberta stays one; `bert-mlm` and `roberta-mlm` are these.
Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from petl_bench.backbones import bert, roberta, shape
from petl_bench.backbones.build import from_config, masked_language_batch
from petl_bench.backbones.dims import Dims
from petl_bench.backbones.family import Family
from petl_bench.case import Backbone, ConfigValue

Normalise = Callable[[Mapping[str, Any]], dict[str, ConfigValue]]

_TIED = "tie_word_embeddings"


def _normalise(config: Mapping[str, Any], encoder: Normalise) -> dict[str, ConfigValue]:
    found = encoder(config)
    del found["num_labels"]
    return found | shape.read(config, {_TIED: True})


def _dims(config: Mapping[str, Any]) -> Dims:
    encoder = bert.encoder_dims(config, pooler=False)
    D, V = encoder.hidden_size, encoder.vocabulary_size
    head = (D * D + D) + 2 * D + V
    if not config[_TIED]:
        head += V * D + V  # transformers then have a bias beside the output layer's own
    return replace(
        encoder, outside_parameters=encoder.outside_parameters + head, language_head=True
    )


def _build(backbone: Backbone, config_class: str) -> nn.Module:
    import transformers  # noqa: PLC0415 - only workers need it

    config = getattr(transformers, config_class)(**backbone.config)
    return from_config(transformers.AutoModelForMaskedLM.from_config, config, backbone)


def _family(plain: Family, architecture: str) -> Family:
    normalise = partial(_normalise, encoder=plain.normalise)
    return Family(
        name=f"{plain.name}-mlm",
        architectures=(f"{architecture}ForMaskedLM",),
        published={f"{name}-mlm": normalise(plain.published[name]) for name in plain.published},
        normalise=normalise,
        dims=_dims,
        build=partial(_build, config_class=f"{architecture}Config"),
        ports=partial(bert.ports, dims_of=lambda config: _dims(normalise(config))),
        batch=masked_language_batch,
        targets=False,
        longest=plain.longest,
    )


BERT = _family(bert.FAMILY, "Bert")
ROBERTA = _family(roberta.FAMILY, "Roberta")
