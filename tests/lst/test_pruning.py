"""Side blocks cut from the backbone, against a hand-worked case and a slow one written out."""

import copy
from types import SimpleNamespace

import pytest
import torch
from petl_bench.methods.lst import attach_lst, cut_from_backbone, fisher_information
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification


def slow_fisher(model, batches):
    """Sum of squared gradients, all of them kept."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for batch in batches:
        model.zero_grad()
        model(**batch).loss.backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad**2
    return sums


def single_examples(batch):
    return [{key: value[i : i + 1] for key, value in batch.items()} for i in range(3)]


def keep(scores, reduction):
    order = sorted(range(len(scores)), key=lambda unit: float(scores[unit]))
    pruned = order[: round((1 - 1 / reduction) * len(scores))]
    return list(set(range(len(scores))) - set(pruned))


def slow_cut(weights, importance, reduction, layers):
    """lst_facts' greedy pass, written out for T5, matrix by matrix; returns thin tensors."""
    thin = {}
    kept = keep(importance["shared.weight"].abs().sum(0), reduction)

    def matrices(names, columns):
        product = 1
        for name in names:
            product = product * importance[name][:, columns]
        rows = keep(product.abs().sum(1), reduction)
        for name in names:
            thin[name] = weights[name][rows][:, columns]
        return rows

    for stack, parts in (
        ("encoder", ["SelfAttention", "DenseReluDense"]),
        ("decoder", ["SelfAttention", "EncDecAttention", "DenseReluDense"]),
    ):
        for layer in range(layers):
            for place, part in enumerate(parts):
                path = f"{stack}.block.{layer}.layer.{place}"
                thin[f"{path}.layer_norm.weight"] = weights[f"{path}.layer_norm.weight"][kept]
                first, last = (["wi"], "wo") if part == "DenseReluDense" else (["q", "k", "v"], "o")
                middle = matrices([f"{path}.{part}.{role}.weight" for role in first], kept)
                kept = matrices([f"{path}.{part}.{last}.weight"], middle)
        name = f"{stack}.final_layer_norm.weight"
        thin[name] = weights[name][kept]
    return thin


def test_fisher_information_is_the_sum_of_squared_gradients(make_t5, batch):
    expected = slow_fisher(make_t5().eval(), single_examples(batch))
    model = attach_lst(make_t5().train(), reduction=2)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    found = fisher_information(model, single_examples(batch))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
    assert len(found) == 1 + 4 * (4 + 2) + 4 * (4 + 4 + 2)
    assert model.training
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    assert all(p.grad is None for p in model.parameters())


def make_bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=23,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    return BertForSequenceClassification(config)


@pytest.mark.parametrize("store", [None, "cpu"])
def test_an_embedding_is_summed_by_the_rows_that_are_looked_up(store, monkeypatch):
    """Tokens that come twice, padding, and tokens that never come."""
    source = torch.tensor([[2, 7, 7, 9, 7, 0, 0], [2, 9, 4, 4, 8, 11, 0]])
    batch = {
        "input_ids": source,
        "attention_mask": torch.tensor([[1] * 6 + [0], [1] * 7]),
        "labels": torch.tensor([2, 0]),
    }
    batches = [*({k: v[i : i + 1] for k, v in batch.items()} for i in range(2)), batch]
    expected = slow_fisher(make_bert().eval(), batches)
    model = attach_lst(make_bert(), reduction=2, keep="all")
    embedding = model.bert.embeddings.word_embeddings
    dense = []
    register = torch.Tensor.register_post_accumulate_grad_hook
    monkeypatch.setattr(
        torch.Tensor,
        "register_post_accumulate_grad_hook",
        lambda tensor, hook: (dense.append(tensor), register(tensor, hook))[1],
    )
    found = fisher_information(model, batches, store=store)
    assert not any(tensor is embedding.weight for tensor in dense)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
    assert len(found) == 1 + 2 * 6
    rows = found["bert.embeddings.word_embeddings.weight"].any(dim=1)
    assert rows.nonzero().flatten().tolist() == [2, 4, 7, 8, 9, 11]
    assert not embedding._forward_hooks
    assert embedding.weight.grad is None


def test_an_embedding_that_is_a_language_head_too_is_summed_whole():
    """Half of a tied matrix's gradient does not come from looking rows up."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=23,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    source = torch.tensor([[2, 7, 7, 9]])
    batch = {"input_ids": source, "labels": source.roll(1)}
    model = BertForMaskedLM(config)
    expected = slow_fisher(copy.deepcopy(model).eval(), [batch])
    found = fisher_information(attach_lst(model, reduction=2, keep="all"), [batch])
    name = "bert.embeddings.word_embeddings.weight"
    torch.testing.assert_close(found[name], expected[name])
    assert found[name].all()


@pytest.mark.parametrize("by", ["fisher", "magnitude"])
@pytest.mark.parametrize(("reduction", "layers"), [(2, "all"), (4, "1,3")])
def test_side_blocks_are_what_the_slow_pass_cuts(by, reduction, layers, make_t5, batch):
    plain = make_t5().eval()
    weights = {name: p.detach().clone() for name, p in plain.named_parameters()}
    model = attach_lst(make_t5(), reduction=reduction, keep=layers)
    if by == "fisher":
        examples = single_examples(batch)
        importance = slow_fisher(plain, examples)
        cut_from_backbone(model, fisher_information(model, examples))
    else:
        importance = {name: weight.abs() for name, weight in weights.items()}
        cut_from_backbone(model)
    expected = slow_cut(weights, importance, reduction, layers=4)
    compared = 0
    for stack in ("encoder", "decoder"):
        thin = model.ladders["default"].stacks[stack].design.thin
        for name, parameter in thin.named_parameters():
            if "relative" in name:
                source = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
                assert torch.equal(parameter, weights[source])
            else:
                assert torch.equal(parameter, expected[f"{stack}.{name}"]), name
                compared += 1
    kept = 4 if layers == "all" else 2
    assert compared == kept * (4 + 1 + 2 + 1) + kept * (4 + 1 + 4 + 1 + 2 + 1) + 2


def test_a_hand_worked_cut():
    """Three units, two stay: scores 5, 1, 3 prune unit 1; of 4 x 3, columns 0 and 2 count."""
    from petl_bench.methods.lst.pruning import _Cut

    embedding = torch.nn.Parameter(torch.zeros(2, 3))
    linear = torch.nn.Linear(3, 4)
    scores = {
        embedding: torch.tensor([[2.0, 1.0, 1.0], [3.0, 0.0, 2.0]]),  # columns: 5, 1, 3
        # rows over columns 0 and 2: 1, 5, 4, 2
        linear.weight: torch.tensor([[1.0, 9, 0], [2, 0, 3], [0, 0, 4], [1, 9, 1]]),
    }
    cut = _Cut(reduction=1.5, scores=scores)
    kept = cut.columns(embedding)
    assert kept == [0, 2]

    part = SimpleNamespace(projections={"wo": linear})
    halved = _Cut(reduction=2, scores=scores)
    assert halved._matrices(part, None, ["wo"], kept) == [1, 2]


def test_what_cannot_be_cut_is_said(make_t5, batch):
    model = attach_lst(make_t5(), variant="adapter-blocks", reduction=2)
    with pytest.raises(ValueError, match="only native side blocks"):
        cut_from_backbone(model)
    model = attach_lst(make_t5(), reduction=2)
    with pytest.raises(ValueError, match="no importance is given for decoder"):
        cut_from_backbone(model, {"shared.weight": torch.ones(99, 32)})
    with pytest.raises(ValueError, match="no batch"):
        fisher_information(model, [])
    with pytest.raises(ValueError, match="does not divide"):
        cut_from_backbone(attach_lst(make_t5(), reduction=3))
    broken = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    with pytest.raises(ValueError, match="the loss of batch 1 is nan"):
        fisher_information(model, [broken])
