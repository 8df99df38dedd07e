"""T5: encoder-decoder with relative position buckets, pre-RMSNorm layers and a tied head.

Source: Raffel et al. 2020, arXiv:1910.10683; dimensions from the published configurations of the
original release (vocabulary 32,128; the LST paper's runs resized theirs to 32,100), and of Flan-T5,
Chung et al. 2022, arXiv:2210.11416, which are of T5 1.1's form.

Legend: B batch, S source tokens, T target tokens, d thin hidden size.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from petl_bench.backbones.build import from_config, sequence_to_sequence_batch
from petl_bench.backbones.dims import Dims, StackDims, SublayerKind
from petl_bench.backbones.family import Family
from petl_bench.backbones.ports import Mask, Ports, Stack, Sublayer, ThinShape, ThinStack
from petl_bench.backbones.shape import SMALLEST_VOCABULARY
from petl_bench.backbones.thin import reserved, thinned
from petl_bench.case import Backbone, ConfigValue, DType

_DEFAULTS: dict[str, ConfigValue] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": None,  # as many as num_layers
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,  # False marks T5 1.1, whose decoder output is not scaled
}


_V1_1: dict[str, ConfigValue] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def _published(
    d_model: int, d_ff: int, num_layers: int, num_heads: int, d_kv: int
) -> dict[str, Any]:
    return _DEFAULTS | {
        "d_model": d_model,
        "d_ff": d_ff,
        "num_layers": num_layers,
        "num_decoder_layers": num_layers,
        "num_heads": num_heads,
        "d_kv": d_kv,
    }


PUBLISHED = {
    "t5-small": _published(512, 2048, 6, 8, 64),
    "t5-base": _published(768, 3072, 12, 12, 64),
    "t5-large": _published(1024, 4096, 24, 16, 64),
    "t5-3b": _published(1024, 16384, 24, 32, 128),
    "t5-11b": _published(1024, 65536, 24, 128, 128),
    "flan-t5-small": _published(512, 1024, 8, 6, 64) | _V1_1,
    "flan-t5-base": _published(768, 2048, 12, 12, 64) | _V1_1,
    "flan-t5-large": _published(1024, 2816, 24, 16, 64) | _V1_1,
    "flan-t5-xl": _published(2048, 5120, 24, 32, 64) | _V1_1,
    "flan-t5-xxl": _published(4096, 10_240, 24, 64, 64) | _V1_1,
}


def _normalise(config: Mapping[str, Any]) -> dict[str, ConfigValue]:
    shape = {key: config.get(key, default) for key, default in _DEFAULTS.items()}
    shape["num_decoder_layers"] = shape["num_decoder_layers"] or shape["num_layers"]
    for key, value in shape.items():
        default = _DEFAULTS[key]
        whole = isinstance(default, int) and not isinstance(default, bool)
        if (whole or key == "num_decoder_layers") and (type(value) is not int or value < 1):
            raise ValueError(f"{key} must be a positive whole number (got {value!r})")
    if config.get("vocab_size", SMALLEST_VOCABULARY) < SMALLEST_VOCABULARY:
        least = SMALLEST_VOCABULARY
        raise ValueError(f"vocab_size must be at least {least} (got {config['vocab_size']})")
    dropout, projection = shape["dropout_rate"], shape["feed_forward_proj"]
    if type(dropout) not in {int, float} or not 0 <= dropout < 1:
        raise ValueError(f"dropout_rate must be a number from 0 to below 1 (got {dropout!r})")
    shape["dropout_rate"] = float(dropout)  # 0 and 0.0 are one network
    if not isinstance(projection, str) or not re.fullmatch(r"(gated-)?\w+", projection):
        raise ValueError(f"feed_forward_proj must be NAME or gated-NAME (got {projection!r})")
    if not isinstance(shape["tie_word_embeddings"], bool):
        tied = shape["tie_word_embeddings"]
        raise TypeError(f"tie_word_embeddings must be true or false (got {tied!r})")
    return shape


def _dims(config: Mapping[str, Any]) -> Dims:
    gated = config["feed_forward_proj"].startswith("gated-")
    buckets = config["relative_attention_num_buckets"]
    return Dims(
        hidden_size=config["d_model"],
        num_heads=config["num_heads"],
        num_key_value_heads=config["num_heads"],
        head_size=config["d_kv"],
        feed_forward_size=config["d_ff"],
        feed_forward_inputs=1 + gated,
        vocabulary_size=config["vocab_size"],
        dropout=config["dropout_rate"],
        stacks={
            "encoder": StackDims(
                layers=config["num_layers"],
                sublayers=(SublayerKind.SELF_ATTENTION, SublayerKind.FEED_FORWARD),
                relative_position_buckets=buckets,
            ),
            "decoder": StackDims(
                layers=config["num_decoder_layers"],
                sublayers=(
                    SublayerKind.SELF_ATTENTION,
                    SublayerKind.CROSS_ATTENTION,
                    SublayerKind.FEED_FORWARD,
                ),
                relative_position_buckets=buckets,
            ),
        },
        outside_parameters=config["vocab_size"]
        * config["d_model"]
        * (1 if config["tie_word_embeddings"] else 2),
    )


def _build(backbone: Backbone) -> nn.Module:
    from transformers import AutoModelForSeq2SeqLM, T5Config  # noqa: PLC0415 - only workers need it

    config = T5Config(**backbone.config, decoder_start_token_id=0, use_cache=False)
    model = from_config(AutoModelForSeq2SeqLM.from_config, config, backbone)
    keep_in_fp32(model, backbone.dtype)
    return model


def keep_in_fp32(model: nn.Module, dtype: DType) -> None:
    """Undo fp16 where it overflows, as transformers loads T5 (_keep_in_fp32_modules)."""
    if dtype is DType.FP16:
        for name, module in model.named_modules():
            if name.endswith(".wo"):
                module.to(torch.float32)


def _ports(model: nn.Module) -> Ports:
    t5: Any = model
    sublayers: list[Sublayer] = []
    for name, stack in (("encoder", t5.encoder), ("decoder", t5.decoder)):
        for index, block in enumerate(stack.block):
            sublayers.extend(_sublayer(name, index, layer) for layer in block.layer)
    return Ports(
        dims=_dims(_normalise(t5.config.to_dict())),
        sublayers=tuple(sublayers),
        norms=tuple(
            [sublayer.norm for sublayer in sublayers]
            + [t5.encoder.final_layer_norm, t5.decoder.final_layer_norm]
        ),
        position_tables=tuple(
            stack.block[0].layer[0].SelfAttention.relative_attention_bias
            for stack in (t5.encoder, t5.decoder)
        ),
        stacks=tuple(
            Stack(
                name=name,
                module=stack,
                embedding=stack.embed_tokens,
                embedding_dropout=stack.dropout.p,
                final_norm=stack.final_layer_norm,
                layers=tuple(stack.block),
                causal=stack.is_decoder,
                masks=_masks,
                cached=_cached(stack.block) if stack.is_decoder else (),
                thin=partial(ThinT5Stack, stack.config),
            )
            for name, stack in (("encoder", t5.encoder), ("decoder", t5.decoder))
        ),
        language_head=t5.lm_head,
        peft_task="SEQ_2_SEQ_LM",
    )


def _masks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Mask, Mask]:
    # T5Stack calls a block with: hidden states, mask, position bias, encoder states, encoder
    # mask, cross position bias; and the cache by name.
    del kwargs
    return args[1], args[4]


def _cached(blocks: Iterable[Any]) -> tuple[nn.Linear, ...]:
    attentions = [
        attention
        for block in blocks
        for attention in (block.layer[0].SelfAttention, block.layer[1].EncDecAttention)
    ]
    return tuple(linear for attention in attentions for linear in (attention.k, attention.v))


def _sublayer(stack: str, index: int, layer: Any) -> Sublayer:
    kind, inside = {
        "T5LayerSelfAttention": (SublayerKind.SELF_ATTENTION, "SelfAttention"),
        "T5LayerCrossAttention": (SublayerKind.CROSS_ATTENTION, "EncDecAttention"),
        "T5LayerFF": (SublayerKind.FEED_FORWARD, "DenseReluDense"),
    }[type(layer).__name__]
    projections = {
        role: module
        for role, module in getattr(layer, inside).named_children()
        if isinstance(module, nn.Linear)
    }
    output = projections["wo" if kind is SublayerKind.FEED_FORWARD else "o"]
    return Sublayer(
        stack=stack,
        layer=index,
        kind=kind,
        norm=layer.layer_norm,
        projections=projections,
        output=output,
    )


class ThinT5Stack(ThinStack):
    """T5 blocks of width D / r: d, d_kv and d_ff divided by r, the number of heads kept.

    Source: the authors' seq2seq code, modeling_side_t5.py. The first kept block owns a table of
    relative position biases; the others reuse what it computes.
    """

    def __init__(self, config: Any, shape: ThinShape) -> None:
        from transformers.models.t5.modeling_t5 import T5Block, T5LayerNorm  # noqa: PLC0415

        super().__init__()
        thin = thinned(config, shape, ("d_model", "d_kv", "d_ff"))
        self.width = thin.d_model
        self.recomputed = shape.recomputed
        self.block = nn.ModuleDict(
            {
                str(index): T5Block(
                    thin,
                    has_relative_attention_bias=index == shape.kept[0],
                    layer_idx=config.num_layers + position,
                )
                for position, index in enumerate(shape.kept)
            }
        )
        self.cached = _cached(self.block.values()) if thin.is_decoder else ()
        self.final_layer_norm = T5LayerNorm(thin.d_model, eps=thin.layer_norm_epsilon)
        self.dropout = nn.Dropout(thin.dropout_rate)
        self._forget()

    def _forget(self) -> None:
        self.encoder_states_BSd: torch.Tensor | None = None
        self.position_bias: torch.Tensor | None = None  # of the first kept block, for all
        self._cross_position_bias: torch.Tensor | None = None

    @property
    def final_norm(self) -> nn.Module:
        """Of width d."""
        norm: nn.Module = self.final_layer_norm
        return norm

    @property
    def position_table(self) -> nn.Module:
        """Of the first kept block, [buckets, H]."""
        first: Any = next(iter(self.block.values()))
        table: nn.Module = first.layer[0].SelfAttention.relative_attention_bias
        return table

    def sublayers(self, index: int) -> tuple[Sublayer, ...]:
        """The residual branches of the block beside backbone block `index`."""
        block: Any = self.block[str(index)]
        return tuple(_sublayer("side", index, layer) for layer in block.layer)

    def masks(
        self, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Mask, Mask]:
        """Of self- and cross-attention, for a block on `state_BTd`: the backbone block's."""
        del state_BTd
        return _masks(args, kwargs)

    def start(self, encoder_states_BTd: torch.Tensor | None) -> None:
        """Begin a pass; a decoder's blocks attend to [B, S, d]."""
        self._forget()
        self.encoder_states_BSd = encoder_states_BTd

    def layer(
        self, index: int, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """[B, T, d] -> [B, T, d] by the block beside backbone block `index`."""
        mask, encoder_mask = self.masks(state_BTd, args, kwargs)
        block: Any = self.block[str(index)]
        cache = reserved(kwargs.get("past_key_values"), block.layer[0].SelfAttention.layer_idx)
        state_BTd, self.position_bias, self._cross_position_bias = self.run(
            block,
            state_BTd,
            mask,
            self.position_bias,
            self.encoder_states_BSd,
            encoder_mask,
            self._cross_position_bias,
            past_key_values=cache,
        )
        return state_BTd

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """Final norm and dropout, [B, T, d]."""
        self._forget()
        normed: torch.Tensor = self.dropout(self.final_layer_norm(state_BTd))
        return normed


FAMILY = Family(
    name="t5",
    architectures=("T5ForConditionalGeneration",),
    published=PUBLISHED,
    normalise=_normalise,
    dims=_dims,
    build=_build,
    ports=_ports,
    batch=sequence_to_sequence_batch,
)
