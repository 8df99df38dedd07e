"""A ladder beside a model that fills in masked tokens, and the classifier it then serves."""

from types import SimpleNamespace

import pytest
import torch
from petl_bench.methods.lst import (
    LadderError,
    attach_lst,
    from_pretrained,
    joint_training,
    load_lst,
    save_reserved,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)

WORDS = 40
VOCABULARY = 5 + WORDS
KINDS = {
    "bert": (BertConfig, BertForMaskedLM, BertForSequenceClassification),
    "roberta": (RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification),
}
OPTIONS = {"reduction": 2, "keep": "all"}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = [*special.values(), *(f"w{n}" for n in range(WORDS))]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, special["unk_token"])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special)


@pytest.fixture(params=KINDS)
def kind(request):
    config, masked, classifier = KINDS[request.param]
    torch.manual_seed(0)
    shape = config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        pad_token_id=0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return SimpleNamespace(config=shape, masked=masked, classifier=classifier)


def sentences(count, length=12):
    """Each says one word over and over: what is hidden follows from what is not."""
    return [{"input_ids": torch.full((length,), 5 + word)} for word in range(count)]


def test_transformers_collator_is_devlins(tokenizer):
    """Section 3.1: 15 % of the tokens, of which 80 % are masked, 10 % random, 10 % as they were."""
    torch.manual_seed(0)
    examples = [{"input_ids": torch.full((1000,), 7)} for _ in range(100)]
    batch = DataCollatorForLanguageModeling(tokenizer)(examples)
    chosen = batch["labels"] != -100
    seen = batch["input_ids"][chosen]
    assert (batch["labels"][chosen] == 7).all()
    assert (batch["input_ids"][~chosen] == 7).all()
    shares = [chosen, seen == tokenizer.mask_token_id, seen == 7]
    # A random token may be the word that it replaces.
    expected = [0.15, 0.8, 0.1 + 0.1 / VOCABULARY]
    for share, wanted in zip(shares, expected, strict=True):
        assert share.float().mean().item() == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("options", [OPTIONS, {"variant": "blog", "width": 16, "keep": "all"}])
def test_pretrained_together_then_fine_tuned_alone(kind, options, tokenizer, tmp_path):
    torch.manual_seed(0)
    options = {"head": "backbone", **options}
    model = attach_lst(kind.masked(kind.config), **options).train()
    collate = DataCollatorForLanguageModeling(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    examples, losses = sentences(WORDS), []
    with joint_training(model):
        for _ in range(30):
            loss = model(**collate(examples)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[0] > 3.5  # ln 45 = 3.8: nothing is known
    assert sum(losses[-5:]) / 5 < losses[0] - 0.4
    save_reserved(model, tmp_path)

    ladder = tmp_path / "ladder"
    again = from_pretrained(ladder)
    batch = collate(examples)
    assert torch.equal(again.eval()(**batch).logits, model.eval()(**batch).logits)

    classifier = load_lst(kind.classifier.from_pretrained(tmp_path, num_labels=3), ladder)
    reserved = model.ladders["default"].state_dict()
    found = classifier.ladders["default"].state_dict()
    new = {name for name in found if name not in reserved}
    assert new
    assert all(name.startswith("head.") for name in new)
    assert all(torch.equal(found[name], value) for name, value in reserved.items())

    before = {name: p.clone() for name, p in classifier.named_parameters()}
    labels = torch.arange(len(examples)) % 3
    inputs = torch.stack([example["input_ids"] for example in examples])
    optimizer = torch.optim.AdamW((p for p in classifier.parameters() if p.requires_grad), lr=0.01)
    classifier.train()(input_ids=inputs, labels=labels).loss.backward()
    optimizer.step()
    changed = {n for n, p in classifier.named_parameters() if not torch.equal(p, before[n])}
    assert {name.split(".")[0] for name in changed} == {"ladders"}
    assert new <= {name.removeprefix("ladders.default.") for name in changed}


def test_a_classifiers_ladder_comes_back_with_its_backbone(kind, tmp_path):
    """BERT's pooler is drawn where the masked model had none, so it must be saved once."""
    save_reserved(attach_lst(kind.masked(kind.config), **OPTIONS), tmp_path / "reserved")
    plain = kind.classifier.from_pretrained(tmp_path / "reserved")
    if kind.classifier is BertForSequenceClassification:
        load_lst(plain, tmp_path / "reserved" / "ladder").save_pretrained(tmp_path / "unsafe")
        with pytest.raises(LadderError, match=r"has no bert\.pooler\.dense\..*draws another"):
            from_pretrained(tmp_path / "unsafe")
        kind.classifier.from_pretrained(tmp_path / "reserved").save_pretrained(tmp_path / "whole")
        plain = kind.classifier.from_pretrained(tmp_path / "whole")
    model = load_lst(plain, tmp_path / "reserved" / "ladder").eval()
    torch.nn.init.normal_(model.ladders["default"].head.get_submodule(_last(model)).weight)
    model.save_pretrained(tmp_path / "tuned")
    again = from_pretrained(tmp_path / "tuned").eval()
    inputs = torch.stack([example["input_ids"] for example in sentences(3)])
    assert torch.equal(again(input_ids=inputs).logits, model(input_ids=inputs).logits)


def _last(model):
    head = model.ladders["default"].head
    return [name for name, m in head.named_modules() if isinstance(m, torch.nn.Linear)][-1]


def test_a_ladder_from_another_kind_of_encoder_is_refused(tmp_path):
    (bert, masked, _), (roberta, _, classifier) = KINDS.values()
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "intermediate_size": 64}
    model = attach_lst(masked(bert(**shape)), **OPTIONS)
    model.save_pretrained(tmp_path)
    with pytest.raises(LadderError, match=r"it is a RobertaForSeq.*, not a BertForMaskedLM"):
        load_lst(classifier(roberta(**shape)), tmp_path)
