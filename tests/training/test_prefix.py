"""Prefix tuning against a T5 written out: attention over prefix and keys, in every layer."""

import pytest
import torch
from torch.nn import functional as F

from petl_bench.case import Attention

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
HEADS, P = 4, 3


@pytest.fixture
def backbone(make_tiny_t5):
    return make_tiny_t5(num_decoder_layers=2, d_kv=16)  # inner width 64, hidden size 32


def rms_norm(x, norm):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * norm.weight


def heads(x):
    return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


def attention(module, x, states, bias, prefix):
    """softmax(q [P_k; k]^T + [0; bias]) [P_v; v]; `prefix` is [P, 2, H K]."""
    k, v = (
        torch.cat([prefix[:, i].expand(len(x), -1, -1), F.linear(states, linear.weight)], dim=1)
        for i, linear in enumerate((module.k, module.v))
    )
    bias = torch.cat([torch.zeros(*bias.shape[:-1], P), bias], dim=-1)
    weights = (heads(module.q(x)) @ heads(k).mT + bias).softmax(-1)
    return module.o((weights @ heads(v)).transpose(1, 2).flatten(2))


def hidden_unless(allowed):
    return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)


def t5_logits(t5, batch, prefixes):
    """`prefixes` by stack and kind: [P, layers, 2, H K]."""
    source_mask = hidden_unless(batch["attention_mask"].bool())[:, None, None, :]
    start = torch.zeros_like(batch["labels"][:, :1])
    shifted = torch.cat([start, batch["labels"][:, :-1]], dim=1)
    T = shifted.shape[1]
    causal = hidden_unless(torch.ones(T, T, dtype=torch.bool).tril())
    memory = None
    for name, ids, mask in (
        ("encoder", batch["input_ids"], source_mask),
        ("decoder", shifted, causal),
    ):
        stack = getattr(t5, name)
        x = t5.shared(ids)
        table = stack.block[0].layer[0].SelfAttention
        self_bias = table.compute_bias(x.shape[1], x.shape[1]) + mask
        self_bias = self_bias.expand(len(x), -1, -1, -1)
        for layer, block in enumerate(stack.block):
            self_attention, *cross, feed_forward = block.layer
            normed = rms_norm(x, self_attention.layer_norm)
            prefix = prefixes[f"{name}_self_attention"][:, layer]
            x = x + attention(self_attention.SelfAttention, normed, normed, self_bias, prefix)
            for attended in cross:
                normed = rms_norm(x, attended.layer_norm)
                prefix = prefixes[f"{name}_cross_attention"][:, layer]
                bias = source_mask.expand(-1, HEADS, T, -1)
                x = x + attention(attended.EncDecAttention, normed, memory, bias, prefix)
            normed = rms_norm(x, feed_forward.layer_norm)
            inner = feed_forward.DenseReluDense
            x = x + F.linear(F.linear(normed, inner.wi.weight).relu(), inner.wo.weight)
        memory = rms_norm(x, stack.final_layer_norm)
    return memory * 32**-0.5 @ t5.shared.weight.T


def written(writer, layers, *, projection):
    """[P, layers, 2, H K] by the formula in the method's docstring."""
    e = writer.embedding.weight
    if projection:
        first, _, second = writer.transform
        e = torch.tanh(e @ first.weight.T + first.bias) @ second.weight.T + second.bias
    return e.view(P, layers, 2, -1)


@pytest.mark.parametrize("kernel", [Attention.EAGER, Attention.SDPA])
@pytest.mark.parametrize("projection", [True, False])
def test_every_attention_sees_its_prefix_before_its_keys(projection, kernel, attach, backbone):
    spec = f"prefix[tokens={P},hidden=7,projection={projection}]"
    built = attach(spec, backbone.model_copy(update={"attention": kernel}))
    batch = built.batch()
    layers = {
        "encoder_self_attention": 4,
        "decoder_self_attention": 2,
        "decoder_cross_attention": 2,
    }
    with torch.no_grad():
        prefixes = {
            group: written(built.model.writers[group], n, projection=projection)
            for group, n in layers.items()
        }
        expected = t5_logits(built.plain, batch, prefixes)
        actual = built.model.eval()(**batch).logits
    torch.testing.assert_close(actual, expected, **TOLERANCE)
    assert set(built.model.writers) == set(layers)


def test_a_prefix_changes_what_the_backbone_says(attach, backbone):
    built, plain = attach("prefix", backbone), attach("full", backbone)
    batch = built.batch()
    with torch.no_grad():
        difference = built.model.eval()(**batch).logits - plain.model.eval()(**batch).logits
    assert difference.abs().max() > 0.01


def test_every_vector_of_every_prefix_trains(attach, backbone):
    """Peft's T5 leaves the encoder and half of its vectors without a gradient."""
    built = attach("prefix[projection=false]", backbone)
    built.model(**built.batch())["loss"].backward()
    for writer in built.model.writers.values():
        pieces = writer.embedding.weight.grad.view(10, -1, 64)  # [P, layers * 2, H K]
        assert (pieces.abs().sum(-1) > 0).all()


def test_no_attention_keeps_its_prefix_after_a_pass(attach, backbone):
    built = attach("prefix", backbone)
    built.model(**built.batch())["loss"].backward()
    assert not any(hasattr(module, "prefix") for module in built.plain.modules())


def test_another_backbone_keeps_its_attention(attach, backbone):
    attach("prefix", backbone)
    plain = attach("full", backbone)
    assert plain.model.config._attn_implementation == "eager"
    assert plain.model(**plain.batch())["loss"].isfinite()


def test_the_cache_changes_no_token(backbone, attach):
    """Keys in the cache are the tokens' alone, and the prefix comes before them at each one."""
    built = attach(f"prefix[tokens={P}]", backbone)
    torch.manual_seed(2)
    for parameter in built.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = {**built.batch()}
    batch.pop("labels")
    model = built.model.eval()
    asked = {**batch, "max_new_tokens": 8, "min_new_tokens": 8}
    cached, plain = (model.generate(**asked, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached, plain)
    for parameter in model.writers.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert not torch.equal(model.generate(**asked), cached)  # it is the prefix that speaks


def test_recomputed_layers_meet_their_prefix(backbone, attach):
    """Gradients are the same, and nothing of a prefix outlives the step."""
    found = []
    for recomputed in (False, True):
        built = attach(f"prefix[tokens={P}]", backbone)
        if recomputed:
            built.method.checkpoint(built.model)
        torch.manual_seed(2)
        built.model.train()(**built.batch())["loss"].backward()
        found.append([p.grad for p in built.model.writers.parameters()])
        assert not any("prefix" in vars(module) for module in built.model.modules())
    torch.testing.assert_close(*found)
    assert all(gradient.abs().sum() > 0 for gradient in found[0])
