"""How large a ladder's linear layers are at the start, and what that lets through."""

import pytest
import torch
from petl_bench.methods.lst import attach_lst
from transformers import BertConfig, BertForSequenceClassification


def make_bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=99,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=16,
        num_labels=3,
    )
    return BertForSequenceClassification(config).eval()


def linears(model):
    ladder = model.ladders["default"]
    return {name: m for name, m in ladder.named_modules() if isinstance(m, torch.nn.Linear)}


def test_beside_a_norm_before_each_branch_all_start_as_the_authors(make_t5):
    found = linears(attach_lst(make_t5(d_model=192), reduction=2))
    assert len(found) == 2 + 2 * 3 + 1 + 3 * (4 + 2) + 3 * (4 + 4 + 2)
    for linear in found.values():
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert linear.bias is None or not linear.bias.any()


def test_beside_a_norm_after_each_sum_they_start_by_their_inputs():
    found = linears(attach_lst(make_bert(), reduction=4, keep="all"))
    head = found.pop("head")  # the model's own
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert len(found) == 1 + 4 + 1 + 4 * 6
    for name, linear in found.items():
        block = "block" in name
        gain = 0.5 if block and not name.endswith(("query", "key")) else 1  # of 4 layers
        std = gain * linear.in_features**-0.5
        assert linear.weight.std().item() == pytest.approx(std, rel=0.05), name
        assert not linear.bias.any()


def test_a_rung_is_heard_beside_states_of_size_one():
    """The state that a side block is given, with all rungs and with those below it alone."""
    model = attach_lst(make_bert(), reduction=4, keep="all")
    side = model.ladders["default"].stack("encoder")
    ids = torch.randint(99, (8, 12), generator=torch.Generator().manual_seed(1))
    entered = {}
    for index in side.kept:
        block = side.design.thin.block[str(index)]
        block.register_forward_pre_hook(lambda _, args, i=index: entered.update({i: args[0]}))
    with torch.no_grad():
        model(input_ids=ids)
        heard = dict(entered)
        for index in side.kept:
            weight = side.rungs[str(index)].weight
            before = weight.clone()
            weight.zero_()
            model(input_ids=ids)
            weight.copy_(before)
            change = (entered[index] - heard[index]).norm() / heard[index].norm()
            assert change > 0.5, index
