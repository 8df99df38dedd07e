"""Llama and decoders like it: pre-RMSNorm layers, rotary positions, shared keys, gated units.

Source: Touvron et al. 2023, arXiv:2302.13971, section 2.2; grouped keys and values, Ainslie et al.
2023, arXiv:2305.13245; dimensions from the published configurations. Frequencies of the rotary
positions shape no tensor: a backbone by name has transformers' default ones.

Legend: B batch, T tokens, D hidden size, K head size, d thin hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import shape
from petl_bench.backbones.build import from_config, language_batch
from petl_bench.backbones.dims import Dims, StackDims, SublayerKind
from petl_bench.backbones.family import Family
from petl_bench.backbones.ports import Mask, Ports, Stack, Sublayer, ThinShape, ThinStack
from petl_bench.backbones.thin import reserved, thinned
from petl_bench.case import Backbone, ConfigValue

_FIELDS: dict[str, Any] = {
    "vocab_size": shape.REQUIRED,
    "hidden_size": shape.REQUIRED,
    "num_hidden_layers": shape.REQUIRED,
    "num_attention_heads": shape.REQUIRED,
    "num_key_value_heads": shape.REQUIRED,  # here as many as heads, where it is not given
    "head_dim": shape.REQUIRED,  # here hidden size / heads, where it is not given
    "intermediate_size": shape.REQUIRED,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one architecture differs from the others of this build."""

    name: str  # transformers' model_type
    architecture: str
    published: dict[str, dict[str, Any]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()  # of its configuration: which projections have biases
    biased: frozenset[str] = frozenset()  # projections that always have one
    normed_heads: bool = False  # norms on each head of queries and of keys
    fixed: dict[str, Any] = field(default_factory=dict)  # in every configuration that is built

    @property
    def family(self) -> Family:
        """What the harness asks for."""
        return Family(
            name=self.name,
            architectures=(self.architecture,),
            published={name: self.normalise(config) for name, config in self.published.items()},
            normalise=self.normalise,
            dims=self.dims,
            build=self.build,
            ports=self.ports,
            batch=language_batch,
            targets=False,
        )

    def normalise(self, config: Mapping[str, Any]) -> dict[str, ConfigValue]:
        """What shapes the network.

        Raises:
            ValueError: a field that is missing or makes no sense.
        """
        given = dict(config)
        heads = given.get("num_attention_heads")
        if given.get("num_key_value_heads") is None:
            given["num_key_value_heads"] = heads
        if given.get("head_dim") is None and isinstance(heads, int) and heads > 0:
            hidden = given.get("hidden_size")
            given["head_dim"] = hidden // heads if isinstance(hidden, int) else hidden
        found = shape.read(given, _FIELDS | dict.fromkeys(self.flags, False))
        shape.check_divides(found, "num_key_value_heads", "num_attention_heads")
        if given["head_dim"] % 2:
            raise ValueError(
                f"head_dim must be even, as positions turn pairs (got {found['head_dim']})"
            )
        return found

    def dims(self, config: Mapping[str, Any]) -> Dims:
        """Of a normalised configuration."""
        D, V = config["hidden_size"], config["vocab_size"]
        biased = set(self.biased)
        if config.get("attention_bias"):
            biased |= {"q", "k", "v", "o"}
        if config.get("mlp_bias"):
            biased |= {"wi", "wo"}
        return Dims(
            hidden_size=D,
            num_heads=config["num_attention_heads"],
            num_key_value_heads=config["num_key_value_heads"],
            head_size=config["head_dim"],
            feed_forward_size=config["intermediate_size"],
            feed_forward_inputs=2,
            vocabulary_size=V,
            dropout=0.0,
            biased=frozenset(biased),
            head_norms=2 * self.normed_heads,
            stacks={
                "decoder": StackDims(
                    layers=config["num_hidden_layers"],
                    sublayers=(SublayerKind.SELF_ATTENTION, SublayerKind.FEED_FORWARD),
                )
            },
            outside_parameters=V * D * (1 if config["tie_word_embeddings"] else 2),
            rotary=True,
        )

    def build(self, backbone: Backbone) -> nn.Module:
        """Random weights, on torch's current default device."""
        from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - only in workers

        config = AutoConfig.for_model(self.name, **backbone.config, **self.fixed, use_cache=False)
        return from_config(AutoModelForCausalLM.from_config, config, backbone)

    def ports(self, model: nn.Module) -> Ports:
        """Of such a model with its language head."""
        causal: Any = model
        return ports(causal, self.dims(self.normalise(causal.config.to_dict())))


def ports(causal: Any, dims: Dims) -> Ports:
    """Of a model of these `dims` with layers of Llama's kind and a language head."""
    base = causal.model
    sublayers = tuple(
        sublayer
        for index, layer in enumerate(base.layers)
        for sublayer in _sublayers("decoder", index, layer)
    )
    return Ports(
        dims=dims,
        sublayers=sublayers,
        norms=(*(sublayer.norm for sublayer in sublayers), base.norm),
        stacks=(
            Stack(
                name="decoder",
                module=base,
                embedding=base.embed_tokens,
                embedding_dropout=0.0,
                final_norm=base.norm,
                layers=tuple(base.layers),
                causal=True,
                masks=_masks,
                cached=_cached(base.layers),
                thin=partial(ThinDecoderStack, base),
            ),
        ),
        language_head=causal.lm_head,
        peft_task="CAUSAL_LM",
    )


def _masks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Mask, Mask]:
    # The decoder calls a layer with hidden states, and all else by name.
    del args
    return kwargs["attention_mask"], None


def _cached(layers: Any) -> tuple[nn.Linear, ...]:
    attentions = [layer.self_attn for layer in layers]
    return tuple(linear for a in attentions for linear in (a.k_proj, a.v_proj))


def _sublayers(stack: str, index: int, layer: Any) -> tuple[Sublayer, ...]:
    heads, units = layer.self_attn, layer.mlp
    return (
        Sublayer(
            stack=stack,
            layer=index,
            kind=SublayerKind.SELF_ATTENTION,
            norm=layer.input_layernorm,
            projections={
                "q": heads.q_proj,
                "k": heads.k_proj,
                "v": heads.v_proj,
                "o": heads.o_proj,
            },
            output=heads.o_proj,
        ),
        Sublayer(
            stack=stack,
            layer=index,
            kind=SublayerKind.FEED_FORWARD,
            norm=layer.post_attention_layernorm,
            projections={"wi_0": units.gate_proj, "wi_1": units.up_proj, "wo": units.down_proj},
            output=units.down_proj,
        ),
    )


class ThinDecoderStack(ThinStack):
    """Layers of width D / r: hidden, head and feed-forward sizes divided by r, the heads kept.

    Positions turn the thin heads at frequencies of their own, which a pass computes once.
    """

    position_table = None

    def __init__(self, base: Any, shape: ThinShape) -> None:
        super().__init__()
        config = base.config
        thin = thinned(config, shape, ("hidden_size", "intermediate_size"))
        thin.head_dim = base.layers[0].self_attn.head_dim // shape.reduction
        n = len(base.layers)
        for name, each in vars(config).items():
            if (
                isinstance(each, list) and len(each) == n
            ):  # looked up by a layer's slot in the cache
                setattr(thin, name, [*each, *(each[index] for index in shape.kept)])
        self.width = thin.hidden_size
        self.recomputed = shape.recomputed
        layer, rotary = type(base.layers[0]), type(base.rotary_emb)
        self.block = nn.ModuleDict(
            {str(index): layer(thin, n + position) for position, index in enumerate(shape.kept)}
        )
        self.cached = _cached(self.block.values())
        self.norm = _thin_norm(base.norm, thin.hidden_size)
        self.rotary_emb = rotary(config=thin)
        self._positions: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def final_norm(self) -> nn.Module:
        """Of width d."""
        norm: nn.Module = self.norm
        return norm

    def sublayers(self, index: int) -> tuple[Sublayer, ...]:
        """The residual branches of the layer beside backbone layer `index`."""
        return _sublayers("side", index, self.block[str(index)])

    def start(self, encoder_states_BTd: torch.Tensor | None) -> None:
        """Begin a pass; there is no encoder to attend to."""
        assert encoder_states_BTd is None
        self._positions = None

    def layer(
        self, index: int, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """[B, T, d] -> [B, T, d] by the layer beside backbone layer `index`."""
        mask, _ = _masks(args, kwargs)
        if self._positions is None:
            self._positions = self.rotary_emb(state_BTd, kwargs["position_ids"])
        block: Any = self.block[str(index)]
        out_BTd: torch.Tensor = self.run(
            block,
            state_BTd,
            attention_mask=mask,
            position_ids=kwargs["position_ids"],
            position_embeddings=self._positions,
            past_key_values=reserved(kwargs.get("past_key_values"), block.self_attn.layer_idx),
        )
        return out_BTd

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """Final norm, [B, T, d]."""
        self._positions = None
        normed: torch.Tensor = self.norm(state_BTd)
        return normed


def _thin_norm(norm: Any, width: int) -> nn.Module:
    """Of the same kind, where that has an epsilon to hand on."""
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    made: nn.Module = type(norm)(width) if eps is None else type(norm)(width, eps=eps)
    return made


def _llama(
    hidden: int, layers: int, heads: int, feed_forward: int, **others: Any
) -> dict[str, Any]:
    return {
        "vocab_size": 128_256,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "intermediate_size": feed_forward,
        **others,
    }


FAMILY = Kind(
    name="llama",
    architecture="LlamaForCausalLM",
    published={
        "llama-3.2-1b": _llama(2048, 16, 32, 8192, tie_word_embeddings=True),
        "llama-3.2-3b": _llama(3072, 28, 24, 8192, tie_word_embeddings=True),
        "llama-3.1-8b": _llama(4096, 32, 32, 14_336),
        "llama-2-7b": _llama(4096, 32, 32, 11_008, vocab_size=32_000, num_key_value_heads=32),
        "llama-2-13b": _llama(5120, 40, 40, 13_824, vocab_size=32_000, num_key_value_heads=40),
        "tinyllama-1.1b": _llama(2048, 22, 32, 5632, vocab_size=32_000, num_key_value_heads=4),
    },
    flags=("attention_bias", "mlp_bias"),
).family
