"""What a ladder does to a model, and what it leaves alone."""

import copy
import gc
import weakref

import pytest
import torch
from petl_bench.methods.lst import LstConfig, attach_lst


def test_nothing_of_the_backbone_trains_or_changes(t5, batch):
    before = {name: p.clone() for name, p in t5.named_parameters()}
    model = attach_lst(t5, reduction=2).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.1)
    for _ in range(3):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = dict(model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(after[name].grad is None for name in before)


def test_no_tensor_of_the_backbone_is_saved_but_what_rungs_read(t5, batch):
    """Of the backbone's width, only the inputs of entries and rungs are kept for backward."""
    model = attach_lst(t5, reduction=4, keep="1,3").eval()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        model(**batch)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    wide = {x.data_ptr() for x in saved if x.dim() > 1 and x.shape[-1] == 32} - weights
    entry_and_rungs = 1 + 2
    assert len(wide) == 2 * entry_and_rungs


def test_every_parameter_that_trains_gets_a_gradient(t5, batch):
    model = attach_lst(t5, reduction=2)
    model(**batch).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@pytest.mark.parametrize(
    "lean", [{"checkpoint": True}, {"attention": "sdpa"}, {"checkpoint": True, "attention": "sdpa"}]
)
def test_leaner_ladders_compute_the_same(lean, make_t5, batch, stirred):
    results = []
    for options in ({}, lean):
        model = stirred(attach_lst(make_t5().train(), reduction=2, **options))
        torch.manual_seed(7)
        for module in model.modules():  # sdpa draws its dropout elsewhere
            if "attention" in options or "attention" in lean:
                _no_dropout(module)
        loss = model(**batch).loss
        loss.backward()
        results.append((loss, [p.grad for p in model.ladders.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def _no_dropout(module):
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
    elif isinstance(getattr(module, "dropout", None), float):
        module.dropout = 0.0


@pytest.mark.parametrize(("keep", "bound"), [("bf16", 2**-8), ("int8", 0.5 / 127)])
def test_a_rung_keeps_its_input_coarsely_and_computes_finely(keep, bound):
    from petl_bench.methods.lst.rungs import Rung

    torch.manual_seed(0)
    fine, coarse = Rung(16, 4), Rung(16, 4, keep=keep)
    coarse.load_state_dict(fine.state_dict())
    h = torch.randn(2, 5, 16, requires_grad=True)
    g = torch.randn(2, 5, 4)
    assert torch.equal(fine(h), coarse(h))
    (dh, dw, db), (dh2, dw2, db2) = (
        torch.autograd.grad(rung(h), [h, rung.weight, rung.bias], g) for rung in (fine, coarse)
    )
    torch.testing.assert_close((dh, db), (dh2, db2))
    # An element of h is off by at most `bound` of its token's largest.
    largest = h.abs().amax(-1, keepdim=True).expand_as(h)
    error = (g.abs().flatten(0, 1).T @ (bound * largest).flatten(0, 1)) * 1.01
    assert ((dw - dw2).abs() <= error + 1e-6).all()
    assert not torch.equal(dw, dw2)


def test_ladders_are_switched_by_name(t5, batch, stirred):
    plain = t5(**batch).logits
    model = stirred(attach_lst(t5, "rte", reduction=2), seed=1)
    first = model(**batch).logits
    attach_lst(model, "cola", reduction=4, keep="all")
    second = model(**batch).logits
    assert model.ladders.active == "cola"
    assert not any(p.requires_grad for p in model.ladders["rte"].parameters())
    model.ladders.activate("rte")
    assert torch.equal(model(**batch).logits, first)
    model.ladders.activate(None)
    # Kernels differ by whether a gradient is to come, in the last bit.
    torch.testing.assert_close(model(**batch).logits, plain.detach())
    assert not torch.equal(first, second)
    with pytest.raises(KeyError, match="no ladder 'sst2'; here are: rte, cola"):
        model.ladders.activate("sst2")


@pytest.mark.parametrize("name", ["a.b", "", "keys", "training"])
def test_a_name_that_cannot_be_one_is_refused(name, t5):
    with pytest.raises(ValueError, match="a ladder cannot be called"):
        attach_lst(t5, name, reduction=2)


def test_a_second_ladder_of_the_same_name_is_refused(t5):
    attach_lst(t5, reduction=2)
    with pytest.raises(ValueError, match="there is a ladder 'default' already"):
        attach_lst(t5, reduction=2)


def test_a_copy_has_a_ladder_of_its_own(t5, batch, stirred):
    model = stirred(attach_lst(t5, reduction=2))
    before = model(**batch).logits
    other = copy.deepcopy(model)
    stirred(other, seed=9)
    assert torch.equal(model(**batch).logits, before)
    assert not torch.equal(other(**batch).logits, before)


def test_a_model_goes_when_its_last_name_does(make_t5, batch):
    """No cycle holds a model, its ladders and its hooks together."""
    gc.collect()
    gc.disable()
    try:
        model = attach_lst(make_t5(), reduction=2)
        model(**batch).loss.backward()
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_a_failed_pass_leaves_nothing(t5, batch):
    model = attach_lst(t5, reduction=2)
    with pytest.raises(IndexError):
        model(**{**batch, "labels": batch["labels"].clamp(min=0) + 1000})
    for side in model.ladders["default"].stacks.values():
        assert side.state_BTd is None
    assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "ladder"}, "variant"),
        ({"width": 64}, "width is for blocks=plain"),
        ({"blocks": "adapter", "attention": "sdpa"}, "attention is an option of native blocks"),
        ({"blocks": "cross-attention"}, "take gates=none"),
        ({"merge": True, "head": "side"}, "head=side does not read them"),
        ({"keep": "0-blocks"}, "write paper, all"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LstConfig(**options)


def test_a_variant_fills_in_what_is_not_given():
    blog = LstConfig(variant="blog", heads=2)
    assert (blog.width, blog.heads, blog.fuse, blog.gates) == (128, 2, "after", "none")


def test_a_model_without_ports_is_refused():
    with pytest.raises(ValueError, match="no ports for Linear; known models are: T5For"):
        attach_lst(torch.nn.Linear(2, 2))
