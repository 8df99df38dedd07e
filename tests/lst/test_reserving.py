"""A reserved ladder: trained with its backbone, fine-tuned alone; and T5's objective."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from petl_bench.methods.lst import (
    METHOD,
    LadderError,
    LstConfig,
    SpanCorruption,
    attach_lst,
    from_pretrained,
    joint_training,
    save_reserved,
)
from transformers import T5ForConditionalGeneration

FIRST_SENTINEL = 98


def test_backbone_and_ladder_train_together_through_the_ladders_head(t5, batch):
    model = attach_lst(t5.train(), reduction=2, keep="all")
    with joint_training(model):
        model(**batch).loss.backward()
    # Rungs read all layers; the last norm, which only the plain head reads, is idle.
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert idle == ["decoder.final_layer_norm.weight"]


def test_a_reserved_ladder_comes_back_with_the_backbone_it_trained_with(t5, batch, tmp_path):
    before = t5.shared.weight.clone()
    model = attach_lst(t5.train(), reduction=2, keep="all")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    collate = SpanCorruption(FIRST_SENTINEL)
    collate.generator.manual_seed(0)
    examples = [{"input_ids": row} for row in torch.randint(2, 60, (4, 20))]
    losses = []
    with joint_training(model):
        for _ in range(8):
            loss = model(**collate(examples)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not torch.equal(model.shared.weight, before)
    save_reserved(model, tmp_path)

    again = from_pretrained(tmp_path / "ladder")
    assert torch.equal(again.eval()(**batch).logits, model.eval()(**batch).logits)
    again(**batch).loss.backward()
    trained = {name for name, p in again.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in again.named_parameters() if name.startswith("ladders")}


@pytest.fixture
def reserved(t5, stirred, tmp_path):
    """The ladder that lies beside its backbone in a folder, and the folder."""
    model = stirred(attach_lst(t5, reduction=2, keep="all"))
    save_reserved(model, tmp_path / "whole")
    return model.ladders["default"], tmp_path / "whole"


def started(folder, **options):
    """A ladder beside the backbone of `folder`, started as `petl-bench train` does."""
    model = T5ForConditionalGeneration.from_pretrained(folder)
    config = LstConfig(initialise="reserved", **options)
    attach_lst(model, **config.model_dump())
    METHOD.initialisation(config)(model, [])
    return model.ladders["default"]


def test_a_ladder_starts_from_the_reserved_one(reserved):
    ladder, folder = reserved
    # How it trains may be another: only what it computes must be the same.
    start = started(folder, reduction=2, keep="all", checkpoint=True, backbone_dropout=False)
    assert start.state_dict().keys() == ladder.state_dict().keys()
    for name, tensor in start.state_dict().items():
        assert torch.equal(tensor, ladder.state_dict()[name]), name
    assert all(parameter.requires_grad for parameter in start.parameters())


def unsupported(folder, **options):
    return METHOD.unsupported_weights(LstConfig(initialise="reserved", **options), folder)


def test_a_reserved_ladder_of_other_options_is_refused(reserved):
    _, folder = reserved
    assert unsupported(folder, reduction=2, keep="all") is None
    for options, said in (
        ({"reduction": 2}, "ladder of keep=all, not keep=paper"),
        (
            {"reduction": 2, "keep": "all", "temperature": 0.5},
            "ladder of temperature=0.1, not temperature=0.5",
        ),
    ):
        assert unsupported(folder, **options).endswith(said)
        with pytest.raises(LadderError, match=f"{re.escape(said)}$"):
            started(folder, **options)


def test_a_backbone_without_a_reserved_ladder_is_refused(t5, tmp_path):
    t5.save_pretrained(tmp_path)
    reason = unsupported(tmp_path, reduction=2)
    assert reason == "initialise=reserved: its folder has no ladder/ladder_config.json"
    assert METHOD.unsupported_weights(LstConfig(), tmp_path) is None
    with pytest.raises(LadderError, match=r"^cannot read .*ladder/ladder_config\.json"):
        started(tmp_path, reduction=2)


def test_a_drawn_backbone_has_no_ladder_to_start_from(t5):
    model = attach_lst(t5, reduction=2, initialise="reserved")
    before = [parameter.clone() for parameter in model.ladders.parameters()]
    METHOD.initialisation(LstConfig(initialise="reserved"))(model, [])
    for parameter, start in zip(model.ladders.parameters(), before, strict=True):
        assert torch.equal(parameter, start)


def test_only_the_active_ladder_is_reserved(t5):
    attach_lst(t5, "first", reduction=2)
    attach_lst(t5, "second", reduction=2)
    with joint_training(t5):
        assert all(p.requires_grad for p in t5.ladders["second"].parameters())
        assert not any(p.requires_grad for p in t5.ladders["first"].parameters())
    trained = {name for name, p in t5.named_parameters() if p.requires_grad}
    assert trained == {
        f"ladders.second.{name}" for name, _ in t5.ladders["second"].named_parameters()
    }
    t5.ladders.activate(None)
    with pytest.raises(ValueError, match="no ladder is active"), joint_training(t5):
        pass


@given(
    tokens=st.lists(st.integers(2, 50), min_size=4, max_size=200),
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.15, 0.3, 0.5]),
)
def test_source_and_target_together_are_the_tokens(tokens, seed, density):
    collate = SpanCorruption(FIRST_SENTINEL, density=density)
    collate.generator.manual_seed(seed)
    source, target = collate.corrupt(tokens)
    assert source.pop() == target.pop() == 1
    hidden = {}
    for token in target:
        if token > 50:
            span = hidden[token] = []
        else:
            span.append(token)
    assert sum(map(len, hidden.values())) == max(round(len(tokens) * density), 1)
    restored = [t for token in source for t in hidden.get(token, [token])]
    assert restored == tokens
    # One sentinel a span, counted down, in both.
    assert [t for t in source if t > 50] == list(hidden)
    assert list(hidden) == [FIRST_SENTINEL - i for i in range(len(hidden))]


def test_a_batch_is_padded(make_t5):
    collate = SpanCorruption(FIRST_SENTINEL)
    batch = collate([{"input_ids": range(2, 30)}, {"input_ids": range(2, 10)}])
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(dim=1).tolist() == [
        (row != 0).sum() for row in batch["input_ids"]
    ]
    assert (batch["labels"] == -100).any()
    assert make_t5()(**batch).loss.isfinite()


def test_what_is_too_short_to_hide_a_part_of_is_refused():
    with pytest.raises(ValueError, match="1 tokens are too few to hide 1 of them"):
        SpanCorruption(FIRST_SENTINEL).corrupt([5])


def test_lengths_are_those_of_t5():
    """By hand: of 568 tokens 85.2, so 85, are hidden, in 28.3 spans, so 28: 483 + 28 + 1 remain."""
    collate = SpanCorruption(FIRST_SENTINEL)
    assert collate.lengths(568) == (512, 114)
    assert collate.fitting(512) == 568
    assert collate.lengths(142) == (142 - 21 + 7 + 1, 21 + 7 + 1)
    assert collate.fitting(128) == 141


@given(source_length=st.integers(8, 600), density=st.sampled_from([0.15, 0.3, 0.5]))
def test_what_fits_is_packed(source_length, density):
    collate = SpanCorruption(2000, density=density)
    tokens = collate.fitting(source_length)
    longer = range(2, 4 * source_length)
    assert tokens == max(n for n in longer if collate.lengths(n)[0] <= source_length)
    source, target = collate.corrupt(range(2, tokens + 2))
    assert (len(source), len(target)) == collate.lengths(tokens)
