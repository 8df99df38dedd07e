"""LST on every family beside a plain implementation, written from the papers alone.

Only the names of weights are transformers'. Dropout is off; B batch, T tokens, D width, H heads.
"""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from petl_bench.methods.lst import METHOD, attach_lst, cut_from_backbone, load_lst
from torch.nn import functional as F

from petl_bench import method_spec
from petl_bench.assembly import unsupported
from petl_bench.backbones import FAMILIES
from petl_bench.case import Backbone, Case, Workload

SPEC = "lst[reduction=2,keep=0-1,temperature=0.5]"
TEMPERATURE = 0.5
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
HEADS, KEY_HEADS = 4, 2
IGNORED = -100


class Weights:
    """The tensors of a model by name, seen from one of its modules."""

    def __init__(self, tensors, prefix=""):
        self.tensors, self.prefix = tensors, prefix

    def at(self, name):
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def __call__(self, name):
        return self.tensors[self.prefix + name]

    def __contains__(self, name):
        return self.prefix + name in self.tensors


def linear(w, x):
    y = x @ w("weight").T
    return y + w("bias") if "bias" in w else y


def layer_norm(w, x, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w("weight") + w("bias")


def rms_norm(w, x, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w("weight")


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def heads_of(x, heads):
    B, T, _ = x.shape
    return x.view(B, T, heads, -1).transpose(1, 2)


def attend(q, k, v, allowed):
    """[B, H, T, K], [B, H, S, K] twice, and booleans that broadcast to [B, H, T, S]."""
    scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    mixed = weights @ v
    return mixed.transpose(1, 2).flatten(2)


def seen(mask_BS):
    return mask_BS.bool()[:, None, None, :]


def before(T):
    return torch.ones(T, T, dtype=torch.bool).tril()[None, None]


def bert_layer(w, x, allowed):
    inside = w.at("attention.self")
    q, k, v = (heads_of(linear(inside.at(n), x), HEADS) for n in ("query", "key", "value"))
    out = linear(w.at("attention.output.dense"), attend(q, k, v, allowed))
    x = layer_norm(w.at("attention.output.LayerNorm"), x + out, 1e-12)
    inner = linear(w.at("output.dense"), gelu(linear(w.at("intermediate.dense"), x)))
    return layer_norm(w.at("output.LayerNorm"), x + inner, 1e-12)


def bart_attention(w, x, memory, allowed):
    q, k, v = (
        heads_of(linear(w.at(f"{n}_proj"), y), HEADS)
        for n, y in (("q", x), ("k", memory), ("v", memory))
    )
    return linear(w.at("out_proj"), attend(q, k, v, allowed))


def bart_layer(w, x, allowed, memory=None, memory_allowed=None):
    out = bart_attention(w.at("self_attn"), x, x, allowed)
    x = layer_norm(w.at("self_attn_layer_norm"), x + out, 1e-5)
    if memory is not None:
        out = bart_attention(w.at("encoder_attn"), x, memory, memory_allowed)
        x = layer_norm(w.at("encoder_attn_layer_norm"), x + out, 1e-5)
    inner = linear(w.at("fc2"), gelu(linear(w.at("fc1"), x)))
    return layer_norm(w.at("final_layer_norm"), x + inner, 1e-5)


def rotate(x, theta=10_000):
    """Su et al. 2021: unit i and unit i + K / 2 of a head turn by t / theta^(2 i / K)."""
    T, K = x.shape[-2:]
    angles = torch.arange(T)[:, None] / theta ** (torch.arange(0, K, 2) / K)
    cos, sin = angles.cos(), angles.sin()
    first, second = x[..., : K // 2], x[..., K // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def decoder_layer(w, x, allowed):
    normed = rms_norm(w.at("input_layernorm"), x, 1e-6)
    inside = w.at("self_attn")
    q = heads_of(linear(inside.at("q_proj"), normed), HEADS)
    k, v = (heads_of(linear(inside.at(f"{n}_proj"), normed), KEY_HEADS) for n in "kv")
    if "q_norm.weight" in inside:
        q, k = rms_norm(inside.at("q_norm"), q, 1e-6), rms_norm(inside.at("k_norm"), k, 1e-6)
    q, k = rotate(q), rotate(k)
    shared = HEADS // KEY_HEADS
    k, v = (torch.stack([y] * shared, 2).flatten(1, 2) for y in (k, v))
    x = x + linear(inside.at("o_proj"), attend(q, k, v, allowed))
    normed = rms_norm(w.at("post_attention_layernorm"), x, 1e-6)
    units = w.at("mlp")
    gate, up = linear(units.at("gate_proj"), normed), linear(units.at("up_proj"), normed)
    return x + linear(units.at("down_proj"), gate * torch.sigmoid(gate) * up)


def climb(side, layers, embedded, layer):
    """The backbone's layers and the ladder beside them: final side state, before any norm."""
    h, s = embedded, linear(side.at("entry"), embedded)
    for i in range(2):
        h = layer(layers.at(str(i)), h, None)
        mu = torch.sigmoid(side("gates")[i] / TEMPERATURE)
        s = mu * s + (1 - mu) * linear(side.at(f"rungs.{i}"), h)
        s = layer(side.at(f"design.thin.block.{i}"), s, "side")
    return h, s


def bert_embedding(w, batch, positions):
    table = w.at("embeddings")
    x = table("word_embeddings.weight")[batch["input_ids"]]
    x = (
        x
        + table("token_type_embeddings.weight")[0]
        + table("position_embeddings.weight")[positions]
    )
    return layer_norm(table.at("LayerNorm"), x, 1e-12)


def encoder_exit(w, layers, embedded, layer, batch):
    ladder = w.at("ladders.default")
    allowed = seen(batch["attention_mask"])
    _, s = climb(
        ladder.at("stacks.encoder"), layers, embedded, lambda v, x, _: layer(v, x, allowed)
    )
    return linear(ladder.at("exit"), s)


def two_layer_head(w, first_BD):
    return linear(w.at("out_proj"), torch.tanh(linear(w.at("dense"), first_BD)))


def bert_logits(w, batch):
    positions = torch.arange(batch["input_ids"].shape[1])
    embedded = bert_embedding(w.at("bert"), batch, positions)
    out = encoder_exit(w, w.at("bert.encoder.layer"), embedded, bert_layer, batch)
    pooled = torch.tanh(linear(w.at("bert.pooler.dense"), out[:, 0]))
    return linear(w.at("ladders.default.head"), pooled)


def roberta_logits(w, batch):
    positions = torch.arange(batch["input_ids"].shape[1]) + 2
    embedded = bert_embedding(w.at("roberta"), batch, positions)
    out = encoder_exit(w, w.at("roberta.encoder.layer"), embedded, bert_layer, batch)
    return two_layer_head(w.at("ladders.default.head"), out[:, 0])


def masked_logits(w, base, head, norm, batch):
    encoder, first_position = w.at(base), 2 * (base == "roberta")
    positions = torch.arange(batch["input_ids"].shape[1]) + first_position
    embedded = bert_embedding(encoder, batch, positions)
    out = encoder_exit(w, encoder.at("encoder.layer"), embedded, bert_layer, batch)
    transformed = layer_norm(norm, gelu(linear(head.at("dense"), out)), 1e-12)
    return transformed @ encoder("embeddings.word_embeddings.weight").T


def bert_mlm_logits(w, batch):
    head = w.at("cls.predictions")
    transform = head.at("transform")
    scores = masked_logits(w, "bert", transform, transform.at("LayerNorm"), batch)
    return scores + head("bias")


def roberta_mlm_logits(w, batch):
    head = w.at("lm_head")
    scores = masked_logits(w, "roberta", head, head.at("layer_norm"), batch)
    return scores + head("bias")


def bart_embedding(w, shared_VD, tokens):
    positions = w("embed_positions.weight")[torch.arange(tokens.shape[1]) + 2]
    return layer_norm(w.at("layernorm_embedding"), shared_VD[tokens] + positions, 1e-5)


def bart_encoder_logits(w, batch):
    encoder = w.at("encoder")
    embedded = bart_embedding(encoder, encoder("embed_tokens.weight"), batch["input_ids"])
    out = encoder_exit(w, encoder.at("layers"), embedded, bart_layer, batch)
    return two_layer_head(w.at("ladders.default.head"), out[:, 0])


def bart_logits(w, batch):
    ladder, shared = w.at("ladders.default"), w("model.shared.weight")
    source_allowed, T = seen(batch["attention_mask"]), batch["labels"].shape[1]
    encoder, decoder = w.at("model.encoder"), w.at("model.decoder")
    memories = climb(
        ladder.at("stacks.encoder"),
        encoder.at("layers"),
        bart_embedding(encoder, shared, batch["input_ids"]),
        lambda v, x, _: bart_layer(v, x, source_allowed),
    )
    shifted = torch.full_like(batch["labels"], 2)  # decoder_start_token_id
    shifted[:, 1:] = batch["labels"][:, :-1]
    shifted[shifted == IGNORED] = 1  # pad_token_id
    _, s = climb(
        ladder.at("stacks.decoder"),
        decoder.at("layers"),
        bart_embedding(decoder, shared, shifted),
        lambda v, x, side: bart_layer(v, x, before(T), memories[bool(side)], source_allowed),
    )
    return linear(ladder.at("exit"), s) @ shared.T


def decoder_logits(w, batch):
    ladder, embeddings = w.at("ladders.default"), w("model.embed_tokens.weight")
    side = ladder.at("stacks.decoder")
    allowed = before(batch["input_ids"].shape[1]) & seen(batch["attention_mask"])
    _, s = climb(
        side,
        w.at("model.layers"),
        embeddings[batch["input_ids"]],
        lambda v, x, _: decoder_layer(v, x, allowed),
    )
    out = linear(ladder.at("exit"), rms_norm(side.at("design.thin.norm"), s, 1e-6))
    head = w("lm_head.weight") if "lm_head.weight" in w else embeddings
    return out @ head.T


def conv(w, x):
    return x @ w("weight") + w("bias")


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def silu(x):
    return x * torch.sigmoid(x)


def gpt2_layer(w, x, allowed):
    inside = w.at("attn")
    q, k, v = conv(inside.at("c_attn"), layer_norm(w.at("ln_1"), x, 1e-5)).chunk(3, -1)
    mixed = attend(*(heads_of(y, HEADS) for y in (q, k, v)), allowed)
    x = x + conv(inside.at("c_proj"), mixed)
    inner = conv(w.at("mlp.c_fc"), layer_norm(w.at("ln_2"), x, 1e-5))
    return x + conv(w.at("mlp.c_proj"), gelu_tanh(inner))


def opt_layer(w, x, allowed):
    inside, normed = w.at("self_attn"), layer_norm(w.at("self_attn_layer_norm"), x, 1e-5)
    q, k, v = (heads_of(linear(inside.at(f"{n}_proj"), normed), HEADS) for n in "qkv")
    x = x + linear(inside.at("out_proj"), attend(q, k, v, allowed))
    inner = linear(w.at("fc1"), layer_norm(w.at("final_layer_norm"), x, 1e-5))
    return x + linear(w.at("fc2"), inner.clamp(min=0))


def phi3_layer(w, x, allowed):
    inside, normed = w.at("self_attn"), rms_norm(w.at("input_layernorm"), x, 1e-5)
    qkv = heads_of(linear(inside.at("qkv_proj"), normed), HEADS + 2 * KEY_HEADS)
    q, k, v = qkv.split([HEADS, KEY_HEADS, KEY_HEADS], 1)
    q, k = rotate(q), rotate(k)
    k, v = (y.repeat_interleave(HEADS // KEY_HEADS, 1) for y in (k, v))
    x = x + linear(inside.at("o_proj"), attend(q, k, v, allowed))
    normed = rms_norm(w.at("post_attention_layernorm"), x, 1e-5)
    gate, up = linear(w.at("mlp.gate_up_proj"), normed).chunk(2, -1)
    return x + linear(w.at("mlp.down_proj"), silu(gate) * up)


def neox_layer(w, x, allowed):
    """Both branches read one state; a quarter of each head turns."""
    inside = w.at("attention")
    normed = layer_norm(w.at("input_layernorm"), x, 1e-5)
    qkv = heads_of(linear(inside.at("query_key_value"), normed), HEADS)
    q, k, v = qkv.chunk(3, -1)
    turned = q.shape[-1] // 4
    q, k = (torch.cat([rotate(y[..., :turned]), y[..., turned:]], -1) for y in (q, k))
    read = linear(inside.at("dense"), attend(q, k, v, allowed))
    inner = linear(w.at("mlp.dense_h_to_4h"), layer_norm(w.at("post_attention_layernorm"), x, 1e-5))
    return x + read + linear(w.at("mlp.dense_4h_to_h"), gelu(inner))


WINDOW = 4


def gemma_layer(w, x, allowed, *, softcap, theta):
    """Norms before and after both branches; the first layer sees a window of tokens."""

    def norm(name, y):
        centred = y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        return centred * (1 + w.at(name)("weight"))

    T, first = x.shape[1], w.prefix.endswith(".0.")
    inside, normed = w.at("self_attn"), norm("input_layernorm", x)
    q = heads_of(linear(inside.at("q_proj"), normed), HEADS)
    k, v = (heads_of(linear(inside.at(f"{n}_proj"), normed), KEY_HEADS) for n in "kv")
    if "q_norm.weight" in inside:
        q, k = norm("self_attn.q_norm", q), norm("self_attn.k_norm", k)
    q, k = (rotate(y, 10_000 if first else theta) for y in (q, k))
    k, v = (y.repeat_interleave(HEADS // KEY_HEADS, 1) for y in (k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if first:
        allowed = allowed & torch.ones(T, T, dtype=torch.bool).triu(1 - WINDOW)
    mixed = scores.masked_fill(~allowed, float("-inf")).softmax(-1) @ v
    read = linear(inside.at("o_proj"), mixed.transpose(1, 2).flatten(2))
    x = x + norm("post_attention_layernorm", read)
    units, normed = w.at("mlp"), norm("pre_feedforward_layernorm", x)
    gate, up = linear(units.at("gate_proj"), normed), linear(units.at("up_proj"), normed)
    inner = linear(units.at("down_proj"), gelu_tanh(gate) * up)
    return x + norm("post_feedforward_layernorm", inner)


def causal_exit(w, layers, embedded, layer, norm, batch):  # noqa: PLR0917
    """The ladder beside a decoder, read by its head: final states, [B, T, D]."""
    ladder = w.at("ladders.default")
    side = ladder.at("stacks.decoder")
    allowed = before(batch["input_ids"].shape[1]) & seen(batch["attention_mask"])
    _, s = climb(side, layers, embedded, lambda v, x, _: layer(v, x, allowed))
    return linear(ladder.at("exit"), norm(side.at("design.thin.norm"), s))


def gpt2_logits(w, batch):
    base, tokens = w.at("transformer"), batch["input_ids"]
    embedded = base("wte.weight")[tokens] + base("wpe.weight")[: tokens.shape[1]]
    out = causal_exit(
        w, base.at("h"), embedded, gpt2_layer, lambda v, x: layer_norm(v, x, 1e-5), batch
    )
    return out @ base("wte.weight").T


def opt_logits(w, batch):
    base, mask = w.at("model.decoder"), batch["attention_mask"]
    positions = mask.cumsum(1) * mask + 1
    embedded = base("embed_tokens.weight")[batch["input_ids"]]
    embedded = embedded + base("embed_positions.weight")[positions]
    out = causal_exit(
        w, base.at("layers"), embedded, opt_layer, lambda v, x: layer_norm(v, x, 1e-5), batch
    )
    return out @ base("embed_tokens.weight").T


def phi3_logits(w, batch):
    embedded = w("model.embed_tokens.weight")[batch["input_ids"]]
    out = causal_exit(
        w, w.at("model.layers"), embedded, phi3_layer, lambda v, x: rms_norm(v, x, 1e-5), batch
    )
    return linear(w.at("lm_head"), out)


def neox_logits(w, batch):
    embedded = w("gpt_neox.embed_in.weight")[batch["input_ids"]]
    out = causal_exit(
        w, w.at("gpt_neox.layers"), embedded, neox_layer, lambda v, x: layer_norm(v, x, 1e-5), batch
    )
    return linear(w.at("embed_out" if "embed_out.weight" in w else "lm_head"), out)


def gemma_logits(w, batch, *, softcap, theta, logits_cap):
    table = w("model.embed_tokens.weight")
    embedded = table[batch["input_ids"]] * table.shape[1] ** 0.5

    def norm(v, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + v("weight"))

    def layer(v, x, allowed):
        return gemma_layer(v, x, allowed, softcap=softcap, theta=theta)

    logits = causal_exit(w, w.at("model.layers"), embedded, layer, norm, batch) @ table.T
    return logits_cap * torch.tanh(logits / logits_cap) if logits_cap else logits


def distilbert_layer(w, x, allowed):
    inside = w.at("attention")
    q, k, v = (heads_of(linear(inside.at(f"{n}_lin"), x), HEADS) for n in "qkv")
    read = linear(inside.at("out_lin"), attend(q, k, v, allowed))
    x = layer_norm(w.at("sa_layer_norm"), x + read, 1e-12)
    inner = linear(w.at("ffn.lin2"), gelu(linear(w.at("ffn.lin1"), x)))
    return layer_norm(w.at("output_layer_norm"), x + inner, 1e-12)


def distilbert_logits(w, batch):
    """The head is two layers, both new with the task and the ladder's."""
    table, tokens = w.at("distilbert.embeddings"), batch["input_ids"]
    embedded = table("word_embeddings.weight")[tokens]
    embedded = embedded + table("position_embeddings.weight")[: tokens.shape[1]]
    embedded = layer_norm(table.at("LayerNorm"), embedded, 1e-12)
    layers = w.at("distilbert.transformer.layer")
    out = encoder_exit(w, layers, embedded, distilbert_layer, batch)
    head = w.at("ladders.default.head")
    return linear(head.at("1"), linear(head.at("0"), out[:, 0]).clamp(min=0))


BUCKETS = 8


def bucket(distance):
    """He et al. 2021: up to half the buckets one a distance, beyond it by its logarithm."""
    half, furthest = BUCKETS // 2, 200
    if abs(distance) <= half:
        return distance
    share = math.log(abs(distance) / half) / math.log((furthest - 1) / half)
    return round(math.copysign(math.ceil(share * (half - 1)) + half, distance))


def deberta_layer(w, x, allowed, relative_RD):
    """He et al. 2021, arXiv:2006.03654, equation 4; positions go through the words' matrices."""
    T, inside = x.shape[1], w.at("attention.self")

    def heads(name, y):
        return heads_of(linear(inside.at(f"{name}_proj"), y), HEADS)

    q, k, v = (heads(name, x) for name in ("query", "key", "value"))
    rows = torch.tensor([[bucket(i - j) + BUCKETS for j in range(T)] for i in range(T)])
    rows = rows.clamp(0, 2 * BUCKETS - 1)
    kr, qr = (heads(name, relative_RD[None])[0][:, rows] for name in ("key", "query"))
    scores = q @ k.transpose(-1, -2)
    scores = scores + torch.einsum("bhik,hijk->bhij", q, kr)
    scores = scores + torch.einsum("bhjk,hijk->bhij", k, qr)
    scores = scores / (3 * q.shape[-1]) ** 0.5
    lowest = torch.finfo(scores.dtype).min  # a padded query sees all alike
    weights = scores.masked_fill(~(allowed & allowed.transpose(-1, -2)), lowest).softmax(-1)
    read = linear(w.at("attention.output.dense"), (weights @ v).transpose(1, 2).flatten(2))
    x = layer_norm(w.at("attention.output.LayerNorm"), x + read, 1e-7)
    inner = linear(w.at("output.dense"), gelu(linear(w.at("intermediate.dense"), x)))
    return layer_norm(w.at("output.LayerNorm"), x + inner, 1e-7)


def deberta_logits(w, batch):
    mask, table = batch["attention_mask"], w.at("deberta.embeddings")
    embedded = table("word_embeddings.weight")[batch["input_ids"]]
    embedded = layer_norm(table.at("LayerNorm"), embedded, 1e-7) * mask[..., None]
    ladder, allowed = w.at("ladders.default"), seen(mask)
    side = ladder.at("stacks.encoder")
    thin, full = side.at("design.thin.positions"), w.at("deberta.encoder")
    relative = {
        name: layer_norm(at.at("LayerNorm"), at("rel_embeddings.weight"), 1e-7)
        for name, at in (("side", thin), (None, full))
    }
    _, s = climb(
        side,
        full.at("layer"),
        embedded,
        lambda v, x, which: deberta_layer(v, x, allowed, relative[which]),
    )
    first = linear(ladder.at("exit"), s)[:, 0]
    return linear(ladder.at("head"), gelu(linear(w.at("pooler.dense"), first)))


def loss_of(logits, labels, *, shifts):
    if shifts:
        logits, labels = logits[:, :-1], labels[:, 1:]
    flat, wanted = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    counted = wanted != IGNORED
    picked = F.log_softmax(flat[counted], -1).gather(1, wanted[counted][:, None])
    return -picked.mean()


REFERENCES = {
    "bert": bert_logits,
    "roberta": roberta_logits,
    "bert-mlm": bert_mlm_logits,
    "roberta-mlm": roberta_mlm_logits,
    "bart-encoder": bart_encoder_logits,
    "bart": bart_logits,
    "llama": decoder_logits,
    "qwen2": decoder_logits,
    "qwen3": decoder_logits,
    "mistral": decoder_logits,
    "gpt2": gpt2_logits,
    "opt": opt_logits,
    "phi3": phi3_logits,
    "gpt_neox": neox_logits,
    "gemma2": partial(gemma_logits, softcap=50, theta=10_000, logits_cap=30),
    "gemma3_text": partial(gemma_logits, softcap=None, theta=1_000_000, logits_cap=None),
    "distilbert": distilbert_logits,
    "deberta-v2": deberta_logits,
}

_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_FEED_FORWARD = {"intermediate_size": 64}
_GEMMA = {
    **_LAYERS,
    **_FEED_FORWARD,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
READ = {  # off their modules: no family of ours knows them
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 200},
    "opt": {**_LAYERS, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 200},
    "phi3": {**_LAYERS, **_FEED_FORWARD, "num_key_value_heads": 2, "pad_token_id": 0},
    "gpt_neox": {**_LAYERS, "hidden_size": 64, **_FEED_FORWARD},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 200,
    },
    "deberta-v2": {
        **_LAYERS,
        **_FEED_FORWARD,
        "max_position_embeddings": 200,
        "position_buckets": BUCKETS,
        "relative_attention": True,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
}
CAUSAL = ["gpt2", "opt", "phi3", "gpt_neox", "gemma2", "gemma3_text"]


@pytest.fixture
def make(make_tiny):
    """Factory: a tiny backbone by its family's name, or by transformers'."""

    def tiny(name, **changes):
        if name not in READ:
            return make_tiny(name, **changes)
        config = {"model_type": name, "vocab_size": 96, **READ[name], **changes}
        family = FAMILIES["auto-causal-lm" if name in CAUSAL else "auto-sequence-classification"]
        return Backbone(name=name, family=family.name, config=family.normalise(config))

    return tiny


def padded(batch):
    """More padding, and in a target."""
    batch["attention_mask"][1, -3:] = 0
    if batch["labels"].dim() == 2:
        batch["labels"][1, -3:] = IGNORED
    return batch


@pytest.fixture(params=REFERENCES)
def stirred(request, make, attach):
    """A family's name, and its ladder with weights far from their start."""
    built = attach(SPEC, make(request.param))
    torch.manual_seed(3)
    for parameter in built.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    built.model.eval()
    return request.param, built


def test_forward_and_gradients_are_the_papers(stirred):
    family, built = stirred
    batch = padded(built.batch())
    model = built.model
    output = model(**batch)
    output.loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = {name: p.grad for name, p in trained.items()}

    logits = REFERENCES[family](Weights(dict(model.named_parameters())), batch)
    loss = loss_of(logits, batch["labels"], shifts=built.ports.peft_task == "CAUSAL_LM")
    expected = torch.autograd.grad(loss, list(trained.values()))

    counted = slice(None)
    if logits.shape[:2] == batch["attention_mask"].shape:  # what padding says is nobody's
        counted = batch["attention_mask"].bool()
    torch.testing.assert_close(output.logits[counted], logits[counted], **TOLERANCE)
    torch.testing.assert_close(output.loss, loss, **TOLERANCE)
    for name, gradient in zip(trained, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, **TOLERANCE, msg=f"{name} differs")
    assert {name.partition(".")[0] for name in trained} == {"ladders"}
    assert all(name in trained for name in dict(model.named_parameters()) if "ladders" in name)


GENERATING = ["bart", "llama", "qwen2", "qwen3", "mistral", "gpt2", "gpt_neox", "gemma3_text"]


@pytest.mark.parametrize("search", [{"do_sample": False}, {"num_beams": 3, "do_sample": True}])
@pytest.mark.parametrize("stirred", GENERATING, indirect=True)
def test_the_cache_changes_no_token(search, stirred):
    """Left padding moves a decoder's positions, and the side network's with them."""
    _, built = stirred
    batch = built.batch()
    batch["attention_mask"][:] = 1
    batch["attention_mask"][1, :3] = 0
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    told = []
    for use_cache in (True, "static", False, None):
        with built.model.ladders.disabled() if use_cache is None else nullcontext():
            torch.manual_seed(3)
            told.append(
                built.model.generate(
                    **inputs,
                    **search,
                    max_new_tokens=8,
                    min_new_tokens=8,
                    pad_token_id=0,
                    use_cache=bool(use_cache),
                    **({"cache_implementation": use_cache} if use_cache == "static" else {}),
                )
            )
    with_cache, static, without, plain = told
    assert torch.equal(with_cache, without)
    assert torch.equal(static, without)
    assert not torch.equal(with_cache, plain)


VARIANTS = ["side-tuning", "adapter-blocks", "cross-attention", "lean"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["roberta", "roberta-mlm", "bart", "qwen2"])
def test_variants_train_what_their_closed_form_counts(variant, family, make_tiny, attach):
    built = attach(f"lst[variant={variant},reduction=2]", make_tiny(family))
    built.model.train()(**built.batch())["loss"].backward()
    trained = [p for p in built.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == METHOD.trainable_parameters(built.dims, built.config)
    assert all(p.grad is not None for p in trained)


@pytest.mark.parametrize("family", ["bert", "roberta", "bart-encoder"])
def test_the_blogs_ladder_reads_sums_and_has_a_head_of_its_own(family, make_tiny, attach):
    """s = W e; after block j, s += W_j h: written out, with the blog's BERT-like blocks."""
    spec = "lst[variant=blog,width=8,heads=2,keep=0-1]"
    built = attach(spec, make_tiny(family))
    model, stack = built.model.eval(), built.ports.stacks[0]
    ladder = model.ladders["default"]
    for parameter in ladder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    heard = []
    for module in (stack.embedding, *stack.layers):
        module.register_forward_hook(lambda _m, _a, output: heard.append(output))
    batch = padded(built.batch())
    logits = model(**batch).logits
    w = Weights(dict(ladder.named_parameters()))
    side, allowed = w.at("stacks.encoder"), seen(batch["attention_mask"])
    s = linear(side.at("entry"), heard[0])
    for i in range(2):
        block = side.at(f"design.block.{i}")
        inside = block.at("attention")
        q, k, v = (heads_of(linear(inside.at(n), s), 2) for n in "qkv")
        read = linear(inside.at("o"), attend(q, k, v, allowed))
        s = layer_norm(block.at("attention_norm"), s + read, 1e-5)
        inner = linear(block.at("down"), gelu(linear(block.at("up"), s)))
        s = layer_norm(block.at("norm"), s + inner, 1e-5) + linear(
            side.at(f"rungs.{i}"), heard[1 + i]
        )
    torch.testing.assert_close(logits, linear(w.at("head"), s[:, 0]), **TOLERANCE)
    assert "bias" not in side.at("entry")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == METHOD.trainable_parameters(built.dims, built.config)


@pytest.mark.parametrize("family", ["bert", "bart", "llama"])
def test_backbone_dropout_can_be_switched_off(family, make_tiny, attach):
    """With the ladder's own dropout at zero, two passes in training mode are one."""
    built = attach("lst[reduction=2,backbone_dropout=false]", make_tiny(family))
    model = built.model.train()
    for module in model.ladders.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    heard = []
    for stack in built.ports.stacks:
        for layer in stack.layers:
            layer.register_forward_hook(lambda _m, _a, output: heard.append(output))
    batch = built.batch()
    model(**batch)
    half = len(heard)
    model(**batch)
    assert all(torch.equal(one, two) for one, two in zip(heard[:half], heard[half:], strict=True))


@pytest.mark.parametrize(
    ("family", "changes", "spec", "reason"),
    [
        ("bert", {}, "lst[reduction=3]", "reduction 3 leaves a width of 10, which has no 4 heads"),
        ("llama", {}, "lst[reduction=16]", "heads of 1, which cannot turn in pairs"),
        ("llama", {}, "lst[variant=blog]", "blocks=plain is for encoders"),
        ("bert-mlm", {}, "lst[variant=blog,width=8]", "head=side is for classifiers"),
        ("bert", {}, "lst[reduction=64]", "leaves nothing"),
        ("roberta", {"num_hidden_layers": 3}, "theseus", "group 2 does not divide the 3 layers"),
    ],
)
def test_a_misfit_is_told_in_a_sentence(family, changes, spec, reason, make_tiny):
    backbone = make_tiny(family, **changes)
    ((_, choice),) = method_spec.parse_specs(spec)
    case = Case(backbone=backbone, method=choice, workload=Workload())
    assert reason in unsupported(case)


CUT = {  # of a layer: the matrices that are cut, in order, and the norm after the second and last
    "bert": (
        "bert.embeddings.word_embeddings",
        "bert.encoder.layer",
        ["attention.self.query", "attention.self.key", "attention.self.value"],
        ("attention.output.dense", "attention.output.LayerNorm"),
        "intermediate.dense",
        ("output.dense", "output.LayerNorm"),
    ),
    "bart-encoder": (
        "encoder.embed_tokens",
        "encoder.layers",
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ("self_attn.out_proj", "self_attn_layer_norm"),
        "fc1",
        ("fc2", "final_layer_norm"),
    ),
}


@pytest.mark.parametrize("family", CUT)
def test_side_blocks_cut_from_post_norm_layers_follow_the_rows(family, make_tiny, attach):
    """By magnitude, halved, matrix by matrix; biases and norms go with the rows that stay."""
    model = attach("lst[reduction=2,keep=all]", make_tiny(family)).model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    cut_from_backbone(model)
    w = Weights({name: p.detach() for name, p in model.named_parameters()})
    embedding, layers, heads, (output, norm), up, (down, last_norm) = CUT[family]

    def stay(scores):
        lowest = sorted(range(len(scores)), key=lambda unit: float(scores[unit]))[
            : len(scores) // 2
        ]
        return list(set(range(len(scores))) - set(lowest))

    def check(thin, full, names, columns):
        scores = torch.stack([full.at(n)("weight")[:, columns].abs() for n in names]).prod(0).sum(1)
        rows = stay(scores)
        for name in names:
            assert torch.equal(thin.at(name)("weight"), full.at(name)("weight")[rows][:, columns])
            assert torch.equal(thin.at(name)("bias"), full.at(name)("bias")[rows])
        return rows

    kept = stay(w.at(embedding)("weight").abs().sum(0))
    for i in range(2):
        thin = w.at(f"ladders.default.stacks.encoder.design.thin.block.{i}")
        full = w.at(f"{layers}.{i}")
        for inputs, out, after in ((heads, output, norm), ([up], down, last_norm)):
            kept = check(thin, full, [out], check(thin, full, inputs, kept))
            for vector in ("weight", "bias"):
                assert torch.equal(thin.at(after)(vector), full.at(after)(vector)[kept])


@pytest.mark.parametrize("family", ["roberta", "bart-encoder", "llama"])
def test_a_ladder_comes_back_with_its_head(family, make_tiny, attach, tmp_path):
    built = attach("full", make_tiny(family))
    model = attach_lst(built.model.eval(), reduction=2)
    for parameter in model.ladders.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    other = load_lst(attach("full", make_tiny(family)).model.eval(), tmp_path)
    batch = built.batch()
    assert torch.equal(other(**batch).logits, model(**batch).logits)
