# ruff: noqa: PLR0917 - formulas of many variables
"""T5 with a ladder, written out with nothing but tensors: slow, and readable beside the paper.

Everything is a function of two dictionaries of weights: the backbone's under transformers' names,
the ladder's under the names of docs/lst.md. Sources: Raffel et al. 2020, section 2.1; Sung et al.
2022, section 3.2. No dropout. Legend: B batch, T queries, S keys, D width, H heads, K head size.
"""

import math
from dataclasses import dataclass

import torch

HIDDEN = -1e9
ROLES = ("q", "k", "v", "o", "wi", "wo")


@dataclass(frozen=True)
class Shape:
    heads: int
    kept: tuple[int, ...]
    temperature: float
    buckets: int = 32
    furthest: int = 128


def loss_and_logits(backbone, ladder, shape, source_BS, mask_BS, labels_BT):
    """Cross-entropy over the labels that count, and the logits, [B, T, V]."""
    target_BT = torch.cat([torch.zeros_like(labels_BT[:, :1]), labels_BT[:, :-1]], dim=1)
    target_BT = target_BT.masked_fill(target_BT == -100, 0)
    B, T = target_BT.shape
    seen_BTS = mask_BS.bool()[:, None, :]
    causal_BTT = torch.ones(T, T).tril().bool().expand(B, T, T)
    E = backbone["shared.weight"]

    states, encoder = climb(backbone, "encoder", shape.heads, E[source_BS], seen_BTS, None, shape)
    hidden_BSD = norm(encoder, backbone["encoder.final_layer_norm.weight"])
    side_BSd = side_states(ladder, "encoder", E[source_BS], states, seen_BTS, None, shape)

    states, _ = climb(
        backbone, "decoder", shape.heads, E[target_BT], causal_BTT, (hidden_BSD, seen_BTS), shape
    )
    side_BTd = side_states(
        ladder, "decoder", E[target_BT], states, causal_BTT, (side_BSd, seen_BTS), shape
    )
    out_BTD = side_BTd @ ladder["exit.weight"].T + ladder["exit.bias"]
    logits_BTV = out_BTD / math.sqrt(out_BTD.shape[-1]) @ E.T
    said = torch.log_softmax(logits_BTV, dim=-1)
    counts = labels_BT != -100
    chosen_BT = said.gather(-1, labels_BT.clamp(min=0)[..., None])[..., 0]
    return -(chosen_BT * counts).sum() / counts.sum(), logits_BTV


def climb(weights, stack, heads, x, seen, memory, shape):
    """What each backbone layer returns, and the last of them."""
    table = weights[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = relative_bias(table, x.shape[1], stack == "encoder", shape)
    states = []
    while f"{stack}.block.{len(states)}.layer.0.layer_norm.weight" in weights:
        x = block(weights, f"{stack}.block.{len(states)}", heads, x, bias, seen, memory)
        states.append(x)
    return states, x


def side_states(ladder, stack, embedded, states, seen, memory, shape):
    """Section 3.2: s = mu s + (1 - mu) (W h + b), then a thin block; a norm at the end."""
    name = f"stacks.{stack}"
    thin = f"{name}.design.thin.block"
    table = ladder[f"{thin}.{shape.kept[0]}.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = relative_bias(table, embedded.shape[1], stack == "encoder", shape)
    s = embedded @ ladder[f"{name}.entry.weight"].T + ladder[f"{name}.entry.bias"]
    for i in shape.kept:
        mu = 1 / (1 + torch.exp(-ladder[f"{name}.gates"][i] / shape.temperature))
        rung = states[i] @ ladder[f"{name}.rungs.{i}.weight"].T + ladder[f"{name}.rungs.{i}.bias"]
        s = mu * s + (1 - mu) * rung
        s = block(ladder, f"{thin}.{i}", shape.heads, s, bias, seen, memory)
    return norm(s, ladder[f"{name}.design.thin.final_layer_norm.weight"])


def block(weights, name, heads, x, bias, seen, memory):
    """A T5 layer: branches of normed states, added."""

    def part(index, inside):
        own = f"{name}.layer.{index}"
        return own, {k: weights.get(f"{own}.{inside}.{k}.weight") for k in ROLES}

    own, w = part(0, "SelfAttention")
    normed = norm(x, weights[f"{own}.layer_norm.weight"])
    x = x + attention(w, heads, normed, normed, bias, seen)
    if memory is not None:
        own, w = part(1, "EncDecAttention")
        normed = norm(x, weights[f"{own}.layer_norm.weight"])
        x = x + attention(w, heads, normed, memory[0], 0.0, memory[1])
    own, w = part(1 if memory is None else 2, "DenseReluDense")
    normed = norm(x, weights[f"{own}.layer_norm.weight"])
    return x + (normed @ w["wi"].T).clamp(min=0) @ w["wo"].T


def attention(w, heads, x, memory, bias, seen):
    """T5's: dot products without a scale, plus a bias a head."""
    mixed = []
    for h in range(heads):
        K = len(w["q"]) // heads
        rows = slice(h * K, (h + 1) * K)
        q, k, v = x @ w["q"][rows].T, memory @ w["k"][rows].T, memory @ w["v"][rows].T
        scores = q @ k.transpose(1, 2) + (bias[h] if torch.is_tensor(bias) else bias)
        scores = scores.masked_fill(~seen, HIDDEN)
        scores = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
        mixed.append(scores / scores.sum(dim=-1, keepdim=True) @ v)
    return torch.cat(mixed, dim=-1) @ w["o"].T


def norm(x, scale):
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6) * scale


def relative_bias(table, length, both_ways, shape):
    """[H, T, T]: a table entry for each distance, far ones sharing theirs by logarithm."""
    rows = [
        [bucket(key - query, both_ways, shape) for key in range(length)] for query in range(length)
    ]
    return table[torch.tensor(rows)].permute(2, 0, 1)


def bucket(distance, both_ways, shape):
    buckets = shape.buckets // 2 if both_ways else shape.buckets
    start = buckets if both_ways and distance > 0 else 0
    away = abs(distance) if both_ways else max(-distance, 0)
    near = buckets // 2
    if away < near:
        return start + away
    far = math.log(away / near) / math.log(shape.furthest / near) * (buckets - near)
    return start + min(near + int(far), buckets - 1)
