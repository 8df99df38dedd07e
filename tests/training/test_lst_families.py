"""LST on every family beside a plain implementation, written from the papers alone.

Only the names of weights are transformers'. Dropout is off; B batch, T tokens, D width, H heads.
"""

from contextlib import nullcontext

import pytest
import torch
from petl_bench.methods.lst import METHOD, attach_lst, cut_from_backbone, load_lst
from torch.nn import functional as F

from petl_bench import method_spec
from petl_bench.assembly import unsupported
from petl_bench.case import Case, Workload

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


def rotate(x):
    """Su et al. 2021: unit i and unit i + K / 2 of a head turn by t / 10000^(2 i / K)."""
    T, K = x.shape[-2:]
    angles = torch.arange(T)[:, None] / 10_000 ** (torch.arange(0, K, 2) / K)
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
}


def padded(batch):
    """More padding, and in a target."""
    batch["attention_mask"][1, -3:] = 0
    if batch["labels"].dim() == 2:
        batch["labels"][1, -3:] = IGNORED
    return batch


@pytest.fixture(params=REFERENCES)
def stirred(request, make_tiny, attach):
    """A family's name, and its ladder with weights far from their start."""
    built = attach(SPEC, make_tiny(request.param))
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


GENERATING = ["bart", "llama", "qwen2", "qwen3", "mistral"]


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
