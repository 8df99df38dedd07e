"""Architectures without a file of their own whose layers are Llama's or BERT's, but for details.

They are told by their modules, not by name: the same children in every layer, and counts of
parameters that the closed forms give exactly. Then the ports of the one they resemble fit.
"""

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import bert, llama
from petl_bench.backbones.ports import Dims, Ports, StackDims, SublayerKind

_SUBLAYERS = (SublayerKind.SELF_ATTENTION, SublayerKind.FEED_FORWARD)
_LLAMA_CALL = {"attention_mask", "position_ids", "past_key_values", "position_embeddings"}
_BERT_CALL = (
    "hidden_states",
    "attention_mask",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "past_key_values",
    "kwargs",
)


def llama_like(model: nn.Module) -> Ports | None:
    """Of a language model whose decoder layers are Llama's; None if they are not."""
    causal: Any = model
    base: Any = getattr(model, "model", None)
    parts = {"embed_tokens", "layers", "norm", "rotary_emb"}
    if not isinstance(getattr(model, "lm_head", None), nn.Linear) or not _owners(base) <= parts:
        return None
    if not all(hasattr(base, part) for part in parts) or not all(map(_is_llama, base.layers)):
        return None
    layer = base.layers[0]
    heads, units = layer.self_attn, layer.mlp
    config, head_norm = causal.config, getattr(heads, "q_norm", None)
    projections = {"q": heads.q_proj, "k": heads.k_proj, "v": heads.v_proj, "o": heads.o_proj}
    projections |= {"wi": units.gate_proj, "wo": units.down_proj}
    vocabulary, hidden = base.embed_tokens.weight.shape
    dims = Dims(
        hidden_size=hidden,
        num_heads=config.num_attention_heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", None)
        or config.num_attention_heads,
        head_size=heads.q_proj.out_features // config.num_attention_heads,
        feed_forward_size=units.gate_proj.out_features,
        feed_forward_inputs=2,
        vocabulary_size=vocabulary,
        dropout=0.0,
        biased=frozenset(role for role, linear in projections.items() if linear.bias is not None),
        head_norms=0 if head_norm is None else 2 * len(list(head_norm.parameters())),
        norm_vectors=len(list(base.norm.parameters())),
        stacks={"decoder": StackDims(layers=len(base.layers), sublayers=_SUBLAYERS)},
        outside_parameters=_count(model) - _count(base.layers) - _count(base.norm),
        rotary=True,
    )
    if not _agrees(dims, "decoder", model, base.layers):
        return None
    return llama.ports(causal, dims)


def bert_like(model: nn.Module) -> Ports | None:
    """Of a classifier whose encoder layers are BERT's; None if they are not."""
    classifier: Any = model
    base: Any = getattr(model, "base_model", None)
    layers = getattr(getattr(base, "encoder", None), "layer", ())
    norm = getattr(getattr(base, "embeddings", None), "LayerNorm", None)
    head = getattr(model, "classifier", None)
    if head is None or norm is None or not layers or not all(map(_is_bert, layers)):
        return None
    config = classifier.config.to_dict()
    if norm.weight.shape != (config["hidden_size"],):  # embeddings that are widened afterwards
        return None
    likely = bert.dims(bert.normalise(config), pooler=False, head_layers=1)
    dims = replace(
        likely,
        outside_parameters=_count(base) - _count(base.encoder),
        task_head_parameters=_count(model) - _count(base),
    )
    if not _agrees(dims, "encoder", base, layers):
        return None
    return bert.ports(model, lambda _: dims)


def _is_llama(layer: Any) -> bool:
    if _owners(layer) - {"input_layernorm", "post_attention_layernorm"} != {"self_attn", "mlp"}:
        return False
    heads = _owners(layer.self_attn) - {"q_norm", "k_norm"}
    linear = (*(getattr(layer.self_attn, name) for name in heads), *_children(layer.mlp).values())
    return (
        heads == {"q_proj", "k_proj", "v_proj", "o_proj"}
        and _owners(layer.mlp) == {"gate_proj", "up_proj", "down_proj"}
        and all(isinstance(each, nn.Linear) for each in linear if list(each.parameters()))
        and hasattr(layer, "input_layernorm")
        and hasattr(layer, "post_attention_layernorm")
        and set(inspect.signature(layer.forward).parameters) >= _LLAMA_CALL
    )


def _is_bert(layer: Any) -> bool:
    call = inspect.signature(layer.forward)
    return (
        tuple(call.parameters)[:2] == _BERT_CALL[:2]
        and set(call.parameters) <= set(_BERT_CALL)
        and call.return_annotation is torch.Tensor
        and _owners(layer) == {"attention", "intermediate", "output"}
        and _owners(layer.attention) == {"self", "output"}
        and _owners(layer.attention.self) == {"query", "key", "value"}
        and _owners(layer.attention.output) == {"dense", "LayerNorm"}
        and _owners(layer.intermediate) == {"dense"}
        and _owners(layer.output) == {"dense", "LayerNorm"}
    )


def _agrees(dims: Dims, stack: str, model: nn.Module, layers: Any) -> bool:
    """Whether the closed forms count what is there, layer by layer and in all."""
    each = dims.layer_parameters(stack)
    return all(_count(layer) == each for layer in layers) and dims.total_parameters == _count(model)


def _children(module: Any) -> dict[str, nn.Module]:
    return dict(module.named_children()) if isinstance(module, nn.Module) else {}


def _owners(module: Any) -> set[str]:
    """Names of the parts of `module` that have parameters; those of its own, too."""
    own = {name for name, _ in module.named_parameters(recurse=False)} if module else set()
    return own | {name for name, part in _children(module).items() if _count(part)}


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
