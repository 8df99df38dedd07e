"""BERT as a classifier: an encoder with learned positions and a norm after every sum.

The pooler, a layer on the first token, is pretrained and belongs to the backbone; the classifier
on it is new with the task. Source: Devlin et al. 2019, arXiv:1810.04805, section 3; dimensions
from the published configurations of bert-base-uncased and bert-large-uncased.

Legend: B batch, T tokens, D hidden size, d thin hidden size.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import shape
from petl_bench.backbones.build import classification_batch, from_config
from petl_bench.backbones.dims import Dims, StackDims, SublayerKind
from petl_bench.backbones.family import Family
from petl_bench.backbones.ports import Mask, Ports, Stack, Sublayer, ThinShape, ThinStack
from petl_bench.backbones.thin import thinned
from petl_bench.case import Backbone, ConfigValue

FIELDS: dict[str, Any] = {
    "vocab_size": shape.REQUIRED,
    "hidden_size": shape.REQUIRED,
    "num_hidden_layers": shape.REQUIRED,
    "num_attention_heads": shape.REQUIRED,
    "intermediate_size": shape.REQUIRED,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "num_labels": 2,
}

ALL_PROJECTIONS = frozenset({"q", "k", "v", "o", "wi", "wo"})


def published(hidden: int, layers: int, heads: int, **others: Any) -> dict[str, ConfigValue]:
    """A published configuration, its feed-forward of 4 D."""
    return normalise(
        {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * hidden,
            **others,
        }
    )


def normalise(config: Mapping[str, Any]) -> dict[str, ConfigValue]:
    """What shapes the network.

    Raises:
        ValueError: a field that is missing or makes no sense.
    """
    found = shape.read({**config, "num_labels": shape.labels(config)}, FIELDS)
    shape.check_divides(found, "num_attention_heads", "hidden_size")
    return found


def dims(config: Mapping[str, Any], *, pooler: bool, head_layers: int) -> Dims:
    """With a pooler in the backbone or not, and a task head of `head_layers` linear layers."""
    D, labels = config["hidden_size"], config["num_labels"]
    head = (head_layers - 1) * (D * D + D) + D * labels + labels
    return replace(encoder_dims(config, pooler=pooler), labels=labels, task_head_parameters=head)


def encoder_dims(config: Mapping[str, Any], *, pooler: bool) -> Dims:
    """Without any head."""
    D = config["hidden_size"]
    embeddings = sum(
        config[rows] for rows in ("vocab_size", "max_position_embeddings", "type_vocab_size")
    )
    return Dims(
        hidden_size=D,
        num_heads=config["num_attention_heads"],
        num_key_value_heads=config["num_attention_heads"],
        head_size=D // config["num_attention_heads"],
        feed_forward_size=config["intermediate_size"],
        feed_forward_inputs=1,
        vocabulary_size=config["vocab_size"],
        dropout=config["hidden_dropout_prob"],
        biased=ALL_PROJECTIONS,
        norm_vectors=2,
        stacks={
            "encoder": StackDims(
                layers=config["num_hidden_layers"],
                sublayers=(SublayerKind.SELF_ATTENTION, SublayerKind.FEED_FORWARD),
                final_norm=False,
            )
        },
        outside_parameters=embeddings * D + 2 * D + pooler * (D * D + D),
        language_head=False,
        split_heads=True,
    )


def ports(
    model: nn.Module, dims_of: Callable[[Mapping[str, Any]], Dims], head: str = "classifier"
) -> Ports:
    """Of a model whose encoder is BERT's: with a task head, or one that fills in masked tokens."""
    whole: Any = model
    base, language_head = whole.base_model, whole.get_output_embeddings()
    embeddings, layers = base.embeddings, base.encoder.layer
    sublayers = tuple(
        sublayer
        for index, layer in enumerate(layers)
        for sublayer in _sublayers("encoder", index, layer)
    )
    return Ports(
        dims=dims_of(whole.config.to_dict()),
        sublayers=sublayers,
        norms=tuple(sublayer.norm for sublayer in sublayers),
        stacks=(
            Stack(
                name="encoder",
                module=base.encoder,
                embedding=embeddings.LayerNorm,
                embedding_dropout=embeddings.dropout.p,
                final_norm=None,
                outside=(embeddings,),
                layers=tuple(layers),
                causal=False,
                masks=_masks,
                cached=(),
                thin=partial(ThinBertStack, whole.config, type(layers[0])),
            ),
        ),
        language_head=language_head,
        task_head=getattr(whole, head) if language_head is None else None,
        # Peft has no task of this kind; this one hands a batch on as it is.
        peft_task="SEQ_CLS" if language_head is None else "FEATURE_EXTRACTION",
    )


def _masks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Mask, Mask]:
    # The encoder calls a layer with: hidden states, mask, another encoder's states (None).
    del kwargs
    return args[1], None


def _sublayers(stack: str, index: int, layer: Any) -> tuple[Sublayer, ...]:
    attention = layer.attention
    heads = attention.self
    return (
        Sublayer(
            stack=stack,
            layer=index,
            kind=SublayerKind.SELF_ATTENTION,
            norm=attention.output.LayerNorm,
            norm_after=True,
            projections={
                "q": heads.query,
                "k": heads.key,
                "v": heads.value,
                "o": attention.output.dense,
            },
            output=attention.output.dense,
        ),
        Sublayer(
            stack=stack,
            layer=index,
            kind=SublayerKind.FEED_FORWARD,
            norm=layer.output.LayerNorm,
            norm_after=True,
            projections={"wi": layer.intermediate.dense, "wo": layer.output.dense},
            output=layer.output.dense,
        ),
    )


class ThinBertStack(ThinStack):
    """Layers of width D / r: hidden and feed-forward sizes divided by r, the heads kept."""

    cached = ()
    final_norm = None  # a layer ends in a norm of its own
    position_table = None

    def __init__(self, config: Any, kind: Callable[..., nn.Module], shape: ThinShape) -> None:
        super().__init__()
        thin = thinned(config, shape, ("hidden_size", "intermediate_size"))
        self.width = thin.hidden_size
        self.recomputed = shape.recomputed
        self.block = nn.ModuleDict({str(index): kind(thin) for index in shape.kept})

    def sublayers(self, index: int) -> tuple[Sublayer, ...]:
        """The residual branches of the layer beside backbone layer `index`."""
        return _sublayers("side", index, self.block[str(index)])

    def start(self, encoder_states_BTd: torch.Tensor | None) -> None:
        """Begin a pass; there is no other encoder to attend to."""
        assert encoder_states_BTd is None

    def layer(
        self, index: int, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """[B, T, d] -> [B, T, d] by the layer beside backbone layer `index`."""
        mask, _ = _masks(args, kwargs)
        out_BTd: torch.Tensor = self.run(self.block[str(index)], state_BTd, mask)
        return out_BTd

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """Nothing follows the last layer."""
        return state_BTd


def _build(backbone: Backbone) -> nn.Module:
    from transformers import (  # noqa: PLC0415 - only workers need it
        AutoModelForSequenceClassification,
        BertConfig,
    )

    config = BertConfig(**backbone.config)
    return from_config(AutoModelForSequenceClassification.from_config, config, backbone)


_dims = partial(dims, pooler=True, head_layers=1)

FAMILY = Family(
    name="bert",
    architectures=("BertForSequenceClassification",),
    published={
        "bert-base": published(768, 12, 12, vocab_size=30522),
        "bert-large": published(1024, 24, 16, vocab_size=30522),
    },
    normalise=normalise,
    dims=_dims,
    build=_build,
    ports=partial(ports, dims_of=lambda config: _dims(normalise(config))),
    batch=classification_batch,
    targets=False,
    longest=lambda config: config["max_position_embeddings"],
)
