"""Thin layers of any kind that `layer.read` understands, called as the backbone calls its own.

A layer of transformers is made of a configuration and its number. What a call hands it belongs to
one of three kinds: what has no width, such as masks and positions, goes to the thin layer as it
is; the cache gets a slot more; what has a width, rotary angles or a table of relative positions, is
made again for the thin one. A layer that takes anything else is not of a known kind.
Legend: B batch, T tokens, D hidden size, d thin hidden size, K head size.
"""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import layer as layers_of
from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Mask, Sublayer, ThinShape, ThinStack
from petl_bench.backbones.thin import reserved, thinned

STATE = "hidden_states"
MASK = "attention_mask"
_ANGLES = "position_embeddings"
_TABLE = "rel_embeddings"
_CACHES = ("past_key_values", "layer_past", "past_key_value")
_POSITIONS = "position_ids"
_NO_WIDTH = (MASK, _POSITIONS, "cache_position", "relative_pos", "alibi")
# Another encoder's states have a width; a stack of these layers has no other encoder.
_LEFT_OUT = (
    "use_cache",
    "output_attentions",
    "query_states",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "kwargs",
)
_FEED_FORWARD = ("intermediate_size", "ffn_dim", "n_inner", "hidden_dim", "ffn_hidden_size")
_OF_A_HEAD = ("head_dim", "query_pre_attn_scalar", "rotary_dim")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model's only list of layers, and where it stands."""

    base: Any  # the model without its heads
    holder: Any  # whose list it is; may be `base`
    layers: nn.ModuleList
    final_norm: nn.Module | None  # after the last layer

    @property
    def has_table(self) -> bool:
        """Whether layers are handed vectors for relative positions, which the holder has."""
        return _TABLE in (arguments(self.layers[0]) or ())


def arguments(layer: nn.Module) -> tuple[str, ...] | None:
    """What `layer` is called with after its state, in order; None if any of it is unknown."""
    first, *others = inspect.signature(layer.forward).parameters
    known = {_ANGLES, _TABLE, *_CACHES, *_NO_WIDTH, *_LEFT_OUT}
    if _ANGLES in others and _POSITIONS not in others:
        return None  # angles of a thin head come from positions
    return tuple(others) if first == STATE and known.issuperset(others) else None


def thin_config(config: Any, dims: Dims, shape: ThinShape) -> Any:
    """`config` with its widths divided, and a place for each thin layer in lists of layers."""
    owned = vars(config)
    heads = [name for name in _OF_A_HEAD if isinstance(owned.get(name), int)]
    inner = [name for name in _FEED_FORWARD if owned.get(name) == dims.feed_forward_size]
    thin = thinned(config, shape, ("hidden_size", *heads, *inner))
    (stack,) = dims.stacks.values()
    for name, each in owned.items():
        if isinstance(each, list) and len(each) == stack.layers:  # looked up by number
            setattr(thin, name, [*each, *(each[index] for index in shape.kept)])
    rope = owned.get("rope_parameters")
    if isinstance(rope, Mapping) and any(isinstance(part, list) for part in rope.values()):
        # A factor for each pair of units: a thin head has fewer, at frequencies of its own.
        kept = {name: part for name, part in rope.items() if not isinstance(part, list)}
        thin.rope_parameters = kept | {"rope_type": "default"}
    return thin


class ThinLayers(ThinStack):
    """Layers of width D / r: hidden, head and feed-forward sizes divided by r, the heads kept."""

    position_table = None

    def __init__(self, found: Found, dims: Dims, shape: ThinShape) -> None:
        super().__init__()
        layers, final_norm = found.layers, found.final_norm
        thin = thin_config(found.base.config, dims, shape)
        self.width, self.recomputed = dims.hidden_size // shape.reduction, shape.recomputed
        self._slots = {index: len(layers) + position for position, index in enumerate(shape.kept)}
        self.block = nn.ModuleDict(
            {str(index): build(layers[0], thin, slot) for index, slot in self._slots.items()}
        )
        self._norm_after = final_norm is None
        self.norm = None if final_norm is None else thin_norm(final_norm, self.width)
        names = arguments(layers[0])
        assert names is not None
        self._arguments = dict(enumerate(names, start=1))
        rotary = getattr(found.holder, "rotary_emb", None) if _ANGLES in names else None
        self.rotary_emb = None if rotary is None else type(rotary)(config=thin)
        self._types = getattr(thin, "layer_types", None)
        self.positions = thin_positions(found.holder, thin) if found.has_table else None
        self.cached = tuple(
            linear for block in self.block.values() for linear in keys_and_values(block)
        )
        self._angles: dict[str | None, Any] = {}
        self._rows: torch.Tensor | None = None

    @property
    def final_norm(self) -> nn.Module | None:
        """Of width d."""
        return self.norm

    def sublayers(self, index: int) -> tuple[Sublayer, ...]:
        """The residual branches of the layer beside backbone layer `index`."""
        read = layers_of.read(self.block[str(index)])
        assert read is not None
        return read.sublayers("side", index, norm_after=self._norm_after)

    def start(self, encoder_states_BTd: torch.Tensor | None) -> None:
        """Begin a pass; there is no other encoder to attend to."""
        assert encoder_states_BTd is None
        self._angles, self._rows = {}, None

    def layer(
        self, index: int, state_BTd: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """[B, T, d] -> [B, T, d] by the layer beside backbone layer `index`."""
        call: dict[str, Any] = {}
        for position, name in self._arguments.items():
            if name in _NO_WIDTH:
                call[name] = given(position, name, args, kwargs)
            elif name in _CACHES:
                cache = given(position, name, args, kwargs)
                call[name] = reserved(cache, self._slots[index], beside=index)
            elif name == _ANGLES:
                call[name] = self._angles_of(index, state_BTd, kwargs)
            elif name == _TABLE:
                call[name] = self._table()
        out: Any = self.run(self.block[str(index)], state_BTd, **call)
        out_BTd: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return out_BTd

    def finish(self, state_BTd: torch.Tensor) -> torch.Tensor:
        """The final norm, if there is one, [B, T, d]."""
        self._angles, self._rows = {}, None
        return state_BTd if self.norm is None else self.norm(state_BTd)

    def _angles_of(self, index: int, state_BTd: torch.Tensor, kwargs: dict[str, Any]) -> Any:
        """Of a thin head, once a pass for each type of layer."""
        if self.rotary_emb is None:
            return None
        several = "layer_type" in inspect.signature(self.rotary_emb.forward).parameters
        kind = self._types[index] if several and self._types is not None else None
        if kind not in self._angles:
            named = {} if kind is None else {"layer_type": kind}
            self._angles[kind] = self.rotary_emb(state_BTd, kwargs[_POSITIONS], **named)
        return self._angles[kind]

    def _table(self) -> torch.Tensor | None:
        """Relative positions of width d, [2 * span, d], once a pass."""
        if self._rows is None and self.positions is not None:
            positions: Any = self.positions
            self._rows = positions.get_rel_embedding()
        return self._rows


def given(position: int, name: str, args: Any, kwargs: Any) -> Any:
    """The argument `name` of a call, or None; positional ones may be a dictionary by number."""
    numbered = args if isinstance(args, dict) else dict(enumerate(args))
    return numbered.get(position) if position in numbered else kwargs.get(name)


def masks(layer: nn.Module, args: Any, kwargs: Any) -> tuple[Mask, Mask]:
    """Of self-attention, additive or boolean; there is no cross-attention."""
    names = arguments(layer) or ()
    mask = given(names.index(MASK) + 1, MASK, args, kwargs) if MASK in names else None
    if mask is not None and not mask.is_floating_point():
        mask = mask.bool()
    return mask, None


def build(like: nn.Module, config: Any, number: int) -> nn.Module:
    """A layer of `like`'s class by `config`, `number` in its stack if that is asked for."""
    _, *others = inspect.signature(type(like)).parameters
    made: nn.Module = type(like)(config, number) if others else type(like)(config)
    return made


def thin_norm(norm: Any, width: int) -> nn.Module:
    """Of the same kind, which may know no width, and may have an epsilon to hand on."""
    first, *_ = inspect.signature(type(norm)).parameters
    if "eps" in first:
        return copy.deepcopy(norm)  # type: ignore[no-any-return]
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    made: nn.Module = type(norm)(width) if eps is None else type(norm)(width, eps=eps)
    return made


def thin_positions(holder: nn.Module, config: Any) -> nn.Module:
    """A holder of no layers: what it has beside them, its table of relative positions."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = 0
    made: nn.Module = type(holder)(config)
    return made


def keys_and_values(layer: nn.Module) -> tuple[nn.Linear, ...]:
    """Their projections, where each has one of its own."""
    read: Any = layers_of.read(layer)
    return tuple(read.heads[role] for role in "kv" if role in read.heads)
