"""Ports of architectures without a file of their own, where their layers can be read.

They are told by their modules, not by name: one list of layers, each with self-attention and a
feed-forward, and counts of parameters that the closed forms give exactly, of a thin layer, too.
Norms may stand before the branches, after the sums, around both branches or beside them; one
projection may make queries, keys and values; positions may be learned, turned, or relative.
"""

import sys
from functools import partial
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import layer as layers_of
from petl_bench.backbones.dims import Dims, StackDims, SublayerKind
from petl_bench.backbones.layer import Layer
from petl_bench.backbones.ports import Ports, Stack, ThinShape
from petl_bench.backbones.thin_layers import (
    Found,
    ThinLayers,
    arguments,
    build,
    keys_and_values,
    masks,
    thin_config,
)

HEADS = ("classifier", "score")
"""How the names of a classifier's heads end: those that peft takes for new with the task."""

_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
_EMBEDDINGS = {"wte", "wpe"}
_BRANCHES = (SublayerKind.SELF_ATTENTION, SublayerKind.FEED_FORWARD)
_DROPOUTS = ("resid_pdrop", "hidden_dropout_prob", "hidden_dropout", "dropout")


def ports(model: nn.Module) -> Ports | None:
    """Of a language model or a classifier; None where its layers are of an unknown kind."""
    whole: Any = model
    language_head, task_head = heads(model)
    found = _found(getattr(model, "base_model", model), model)
    if found is None or (language_head is None) == (task_head is None):
        return None
    dims = _dims(whole, found, language_head, task_head)
    if dims is None:
        return None
    (name,) = dims.stacks
    causal = name == "decoder"
    base, layers, final_norm = found.base, found.layers, found.final_norm
    read = [layer for layer in map(layers_of.read, layers) if layer is not None]
    norms = [norm for each in read for norm in each.norms]
    stack_module = _states_of(found)
    return Ports(
        dims=dims,
        sublayers=tuple(
            sublayer
            for index, each in enumerate(read)
            for sublayer in each.sublayers(name, index, norm_after=final_norm is None)
        ),
        norms=tuple(norms if final_norm is None else [*norms, final_norm]),
        stacks=(
            Stack(
                name=name,
                module=stack_module,
                embedding=None,
                embedding_dropout=0.0,  # the first layer is given what has met it
                final_norm=final_norm,
                outside=() if stack_module is base else tuple(_outside(base, stack_module)),
                layers=tuple(layers),
                causal=causal,
                masks=partial(masks, layers[0]),
                cached=tuple(linear for layer in layers for linear in keys_and_values(layer)),
                thin=partial(ThinLayers, found, dims),
            ),
        ),
        language_head=language_head,
        task_head=task_head,
        peft_task=_peft_task(task_head is not None, causal=causal),
        embedding=whole.get_input_embeddings(),
    )


def heads(model: Any) -> tuple[nn.Linear | None, nn.Module | None]:
    """A language head, and what is new with a classifier's task: either may be None."""
    new = [module for name, module in model.named_children() if name.endswith(HEADS)]
    if new:
        return None, new[0] if len(new) == 1 else nn.ModuleList(new)
    ask = getattr(model, "get_output_embeddings", None)
    head = ask() if ask is not None else None
    return (head if isinstance(head, nn.Linear) else None), None


def _peft_task(classifies: bool, *, causal: bool) -> str:  # noqa: FBT001
    if classifies:
        return "SEQ_CLS"
    # Peft has no task of an encoder's language head; this one hands a batch on as it is.
    return "CAUSAL_LM" if causal else "FEATURE_EXTRACTION"


def _found(base: nn.Module, model: nn.Module) -> Found | None:
    """The only list of layers in `base`, if all of them can be read and called."""
    lists = [
        (parent, child)
        for parent in base.modules()
        for child in parent.children()
        if isinstance(child, nn.ModuleList)
    ]
    if base is model or len(lists) != 1:
        return None
    holder, layers = lists[0]
    known = [layers_of.read(layer) is not None and arguments(layer) is not None for layer in layers]
    if not known or not all(known):
        return None
    final = [
        child
        for parent in (holder, base)
        for name, child in parent.named_children()
        if name in _FINAL_NORMS and layers_of.is_norm(child)
    ]
    return Found(base=base, holder=holder, layers=layers, final_norm=final[0] if final else None)


def _states_of(found: Found) -> nn.Module:
    """What returns the final states: a model inside, what a pooler reads, or else the base.

    A head may call a model inside the base by itself, and the base may take a plain holder's last
    layer for its own output.
    """
    base: nn.Module = found.base
    if hasattr(found.holder, "base_model"):
        inner: nn.Module = found.holder
        return inner
    if getattr(base, "pooler", None) is None:
        return base
    return next(child for child in base.children() if found.layers in set(child.modules()))


def _outside(base: nn.Module, stack_module: nn.Module) -> list[nn.Module]:
    children = base.named_children()
    return [each for name, each in children if each is not stack_module and name != "pooler"]


def _dims(
    model: Any, found: Found, language_head: nn.Linear | None, task_head: nn.Module | None
) -> Dims | None:
    """By the closed forms, if they count what is there: layer by layer, in all, and thin."""
    layers, final_norm, config = found.layers, found.final_norm, found.base.config
    read = layers_of.read(layers[0])
    H = field(config, "num_attention_heads")
    if read is None or not H or not _understood(found):
        return None
    F, D = layers_of.sizes(read.units["wo"])
    K = layers_of.sizes(read.heads["o"])[0] // H
    vocabulary, width = model.get_input_embeddings().weight.shape
    if width != D or not K or field(config, "hidden_size") != D:
        return None
    in_table = _count(found.holder) - _count(layers) if found.has_table else 0
    new = 0 if task_head is None else _count(task_head)
    rotary = getattr(found.holder, "rotary_emb", None)
    dims = Dims(
        hidden_size=D,
        num_heads=H,
        num_key_value_heads=_key_heads(read, H, K),
        head_size=K,
        feed_forward_size=F,
        feed_forward_inputs=1 if "wi" in read.units else 2,
        vocabulary_size=vocabulary,
        dropout=_dropout(config),
        biased=_biased(read),
        head_norms=sum(len(list(norm.parameters())) for norm in read.head_norms),
        norm_vectors=len(list(read.norms[0].parameters())),
        stacks={
            "decoder" if _is_causal(model, read) else "encoder": StackDims(
                layers=len(layers),
                sublayers=_BRANCHES,
                position_vectors=in_table // D,
                final_norm=final_norm is not None,
                layer_norms=None if len(read.norms) == len(_BRANCHES) else len(read.norms),
            )
        },
        outside_parameters=_count(model)
        - _count(layers)
        - (0 if final_norm is None else _count(final_norm))
        - in_table
        - new,
        labels=0 if task_head is None else config.num_labels,
        task_head_parameters=new,
        language_head=language_head is not None,
        split_heads=not isinstance(vars(config).get("head_dim"), int),
        fused=read.fused,
        rotary=rotary is not None or isinstance(vars(config).get("rotary_dim"), int),
        rotary_share=_rotary_share(rotary, config, K),
        longest=longest(found.base),
        named_attention=_is_named(read),
    )
    agrees = _agrees(dims, model, layers, new) and _agrees_thin(dims, found)
    return dims if agrees else None


def _understood(found: Found) -> bool:
    """Whether all that has parameters beside the layers is an embedding, a norm or a pooler."""
    base, holder = found.base, found.holder
    inside = {base, holder}
    for parent in inside:
        for name, child in parent.named_children():
            on_the_way = found.layers in set(child.modules())
            known = name in _EMBEDDINGS or "emb" in name or name == "pooler"
            of_table = found.has_table and parent is holder and name == "LayerNorm"
            if not (on_the_way or known or of_table or child is found.final_norm) and _count(child):
                return False
    return not any(list(parent.parameters(recurse=False)) for parent in inside)


def field(config: Any, name: str) -> Any:
    """None where the configuration has no such field, or a layer each has its own."""
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001 - transformers' own kind, of some versions
        return None


def _is_causal(model: Any, read: Layer) -> bool:
    said = getattr(read.attention, "is_causal", None)
    return bool(model.can_generate() if said is None else said)


def _is_named(read: Layer) -> bool:
    """Whether its attention is looked up, as transformers' newer ones are."""
    return "eager_attention_forward" in vars(sys.modules[type(read.attention).__module__])


def _key_heads(read: Layer, heads: int, head_size: int) -> int:
    if "k" in read.heads:
        return layers_of.sizes(read.heads["k"])[1] // head_size
    _, outputs = layers_of.sizes(next(iter(read.heads.values())))
    return (outputs // head_size - heads) // 2


def _biased(read: Layer) -> frozenset[str]:
    """Roles of which one has a bias: of both matrices of a gated unit it is `wi`."""
    names = [
        made.partition("_")[0]
        for role, linear in read.projections.items()
        if getattr(linear, "bias", None) is not None
        for made in read.fused.get(role, (role,))
    ]
    return frozenset(names)


def _dropout(config: Any) -> float:
    for name in _DROPOUTS:
        share = field(config, name)
        if isinstance(share, float):
            return share
    return 0.0


def _rotary_share(rotary: nn.Module | None, config: Any, head_size: int) -> float:
    """Units of a head that positions turn, of all: they are turned in pairs."""
    absolute = vars(config).get("rotary_dim")
    if isinstance(absolute, int):
        return absolute / head_size
    buffers = [] if rotary is None else rotary.named_buffers()
    pairs = [buffer.numel() for name, buffer in buffers if name.endswith("inv_freq")]
    return 2 * pairs[0] / head_size if pairs else 1.0


def longest(base: nn.Module) -> int | None:
    """Most tokens of a sequence where each position has a vector; None where none has."""
    for name, module in base.named_modules():
        leaf = name.rpartition(".")[2]
        table = isinstance(module, nn.Embedding)
        if table and (leaf == "wpe" or ("position" in leaf and "embed" in leaf)):
            padding = getattr(module, "padding_idx", None)
            taken: int = getattr(module, "offset", 0 if padding is None else padding + 1)
            return int(module.num_embeddings) - taken
    return None


def _agrees(dims: Dims, model: nn.Module, layers: nn.ModuleList, new: int) -> bool:
    (stack,) = dims.stacks
    each = dims.layer_parameters(stack)
    whole = dims.total_parameters == _count(model) - new
    return whole and all(_count(layer) == each for layer in layers)


def _agrees_thin(dims: Dims, found: Found) -> bool:
    """A layer of half the widths is built, without data, and counted; of odd ones, none."""
    (stack,) = dims.stacks
    half = 2
    turned = int(dims.head_size // half * dims.rotary_share)
    if dims.head_size % half or dims.feed_forward_size % half or (dims.rotary and turned % half):
        return True
    config = thin_config(found.base.config, dims, ThinShape(reduction=half, kept=(0,)))
    with torch.device("meta"):
        thin = build(found.layers[0], config, len(found.layers))
    return _count(thin) == dims.layer_parameters(stack, half)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
