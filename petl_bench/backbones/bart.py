"""BART: encoder-decoder with learned positions, a norm after every sum and a tied head.

Source: Lewis et al. 2020, arXiv:1910.13461, section 2; dimensions from the published
configuration of bart-large.

Legend: B batch, S source tokens, T target tokens, D hidden size, d thin hidden size.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import shape
from petl_bench.backbones.bert import ALL_PROJECTIONS
from petl_bench.backbones.build import from_config, sequence_to_sequence_batch
from petl_bench.backbones.dims import Dims, StackDims, SublayerKind
from petl_bench.backbones.family import Family
from petl_bench.backbones.ports import Mask, Ports, Stack, Sublayer, ThinShape, ThinStack
from petl_bench.backbones.thin import reserved, thinned
from petl_bench.case import Backbone, ConfigValue

ENCODER_FIELDS: dict[str, Any] = {
    "vocab_size": shape.REQUIRED,
    "d_model": shape.REQUIRED,
    "encoder_layers": shape.REQUIRED,
    "encoder_attention_heads": shape.REQUIRED,
    "encoder_ffn_dim": shape.REQUIRED,
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
_FIELDS = ENCODER_FIELDS | {
    "decoder_layers": shape.REQUIRED,
    "decoder_attention_heads": shape.REQUIRED,
    "decoder_ffn_dim": shape.REQUIRED,
}

LARGE: dict[str, ConfigValue] = {
    "vocab_size": 50265,
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
}

OFFSET = 2
"""Rows of a position table that no position reads."""

_SUBLAYERS = {  # of a layer: kind, the module that holds its projections, its norm
    "encoder": (
        (SublayerKind.SELF_ATTENTION, "self_attn", "self_attn_layer_norm"),
        (SublayerKind.FEED_FORWARD, None, "final_layer_norm"),
    ),
    "decoder": (
        (SublayerKind.SELF_ATTENTION, "self_attn", "self_attn_layer_norm"),
        (SublayerKind.CROSS_ATTENTION, "encoder_attn", "encoder_attn_layer_norm"),
        (SublayerKind.FEED_FORWARD, None, "final_layer_norm"),
    ),
}


def _normalise(config: Mapping[str, Any]) -> dict[str, ConfigValue]:
    found = shape.read(config, _FIELDS)
    shape.check_divides(found, "encoder_attention_heads", "d_model")
    for own, other in (
        ("decoder_attention_heads", "encoder_attention_heads"),
        ("decoder_ffn_dim", "encoder_ffn_dim"),
    ):
        if found[own] != found[other]:
            raise ValueError(f"{own} must be {other}'s {found[other]} (got {found[own]})")
    return found


def dims(config: Mapping[str, Any], stacks: tuple[str, ...], **others: Any) -> Dims:
    """Of these stacks and the embeddings that they read."""
    D, heads = config["d_model"], config["encoder_attention_heads"]
    positions = (config["max_position_embeddings"] + OFFSET) * D
    return Dims(
        hidden_size=D,
        num_heads=heads,
        num_key_value_heads=heads,
        head_size=D // heads,
        feed_forward_size=config["encoder_ffn_dim"],
        feed_forward_inputs=1,
        vocabulary_size=config["vocab_size"],
        dropout=config["dropout"],
        biased=ALL_PROJECTIONS,
        norm_vectors=2,
        stacks={
            name: StackDims(
                layers=config[f"{name}_layers"],
                sublayers=tuple(kind for kind, _, _ in _SUBLAYERS[name]),
                final_norm=False,
            )
            for name in stacks
        },
        outside_parameters=config["vocab_size"] * D + len(stacks) * (positions + 2 * D),
        split_heads=True,
        **others,
    )


def sublayers(stack: str, module: Any) -> tuple[Sublayer, ...]:
    """All residual branches of an encoder or a decoder."""
    return tuple(
        sublayer
        for index, layer in enumerate(module.layers)
        for sublayer in _sublayers(stack, stack, index, layer)
    )


def stack_port(name: str, module: Any) -> Stack:
    """The port of an encoder or a decoder."""
    return Stack(
        name=name,
        module=module,
        embedding=module.layernorm_embedding,
        embedding_dropout=module.dropout,
        final_norm=None,
        layers=tuple(module.layers),
        causal=name == "decoder",
        masks=_masks,
        cached=_cached(name, module.layers),
        thin=partial(ThinBartStack, name, module.config, type(module.layers[0])),
    )


def _masks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Mask, Mask]:
    # A layer is called with hidden states and mask; in the decoder with the encoder's mask by name.
    return args[1], kwargs.get("encoder_attention_mask")


def _cached(name: str, layers: Any) -> tuple[nn.Linear, ...]:
    if name == "encoder":
        return ()
    attentions = [a for layer in layers for a in (layer.self_attn, layer.encoder_attn)]
    return tuple(linear for a in attentions for linear in (a.k_proj, a.v_proj))


def _sublayers(kind_of_layer: str, stack: str, index: int, layer: Any) -> tuple[Sublayer, ...]:
    found = []
    for kind, attention, norm in _SUBLAYERS[kind_of_layer]:
        if attention is None:
            projections = {"wi": layer.fc1, "wo": layer.fc2}
        else:
            heads = getattr(layer, attention)
            projections = {
                "q": heads.q_proj,
                "k": heads.k_proj,
                "v": heads.v_proj,
                "o": heads.out_proj,
            }
        found.append(
            Sublayer(
                stack=stack,
                layer=index,
                kind=kind,
                norm=getattr(layer, norm),
                norm_after=True,
                projections=projections,
                output=list(projections.values())[-1],
            )
        )
    return tuple(found)


class ThinBartStack(ThinStack):
    """Layers of width D / r: hidden and feed-forward sizes divided by r, the heads kept."""

    final_norm = None  # a layer ends in a norm of its own
    position_table = None

    def __init__(self, name: str, config: Any, kind: Any, shape: ThinShape) -> None:
        super().__init__()
        thin = thinned(config, shape, ("d_model", "encoder_ffn_dim", "decoder_ffn_dim"))
        self.name = name
        self.width = thin.d_model
        self.recomputed = shape.recomputed
        slots = getattr(config, f"{name}_layers")
        self.block = nn.ModuleDict(
            {
                str(index): kind(thin, layer_idx=slots + position)
                for position, index in enumerate(shape.kept)
            }
        )
        self.cached = _cached(name, self.block.values())
        self._encoder_states_BSd: torch.Tensor | None = None

    def sublayers(self, index: int) -> tuple[Sublayer, ...]:
        """The residual branches of the layer beside backbone layer `index`."""
        return _sublayers(self.name, "side", index, self.block[str(index)])

    def start(self, encoder_states_BTd: torch.Tensor | None) -> None:
        """Begin a pass; a decoder's layers attend to [B, S, d]."""
        self._encoder_states_BSd = encoder_states_BTd

    def layer(
        self, index: int, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """[B, T, d] -> [B, T, d] by the layer beside backbone layer `index`."""
        mask, encoder_mask = _masks(args, kwargs)
        block: Any = self.block[str(index)]
        others: dict[str, Any] = {}
        if self.name == "decoder":
            others = {
                "encoder_hidden_states": self._encoder_states_BSd,
                "encoder_attention_mask": encoder_mask,
                "past_key_values": reserved(
                    kwargs.get("past_key_values"), block.self_attn.layer_idx
                ),
            }
        out_BTd: torch.Tensor = self.run(block, state_BTd, mask, **others)
        return out_BTd

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """Nothing follows the last layer."""
        self._encoder_states_BSd = None
        return state_BTd


def _build(backbone: Backbone) -> nn.Module:
    from transformers import (  # noqa: PLC0415 - only workers need it
        AutoModelForSeq2SeqLM,
        BartConfig,
    )

    config = BartConfig(**backbone.config, use_cache=False)
    return from_config(AutoModelForSeq2SeqLM.from_config, config, backbone)


def _ports(model: nn.Module) -> Ports:
    bart: Any = model
    stacks = {"encoder": bart.model.encoder, "decoder": bart.model.decoder}
    branches = tuple(s for name, module in stacks.items() for s in sublayers(name, module))
    return Ports(
        dims=_dims(_normalise(bart.config.to_dict())),
        sublayers=branches,
        norms=tuple(sublayer.norm for sublayer in branches),
        stacks=tuple(stack_port(name, module) for name, module in stacks.items()),
        language_head=bart.lm_head,
        peft_task="SEQ_2_SEQ_LM",
    )


_dims = partial(dims, stacks=("encoder", "decoder"))

FAMILY = Family(
    name="bart",
    architectures=("BartForConditionalGeneration",),
    published={"bart-large": _normalise(LARGE)},
    normalise=_normalise,
    dims=_dims,
    build=_build,
    ports=_ports,
    batch=sequence_to_sequence_batch,
    longest=lambda config: config["max_position_embeddings"],
)
