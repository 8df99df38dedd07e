"""Answers in text: a tiny encoder-decoder with random weights and a tokenizer made on the spot."""

import pytest

from petl_bench import cards
from petl_bench.cards import DEFAULT_CARD
from petl_bench.record import Status
from petl_bench.tasks import splits, weights
from petl_bench.tasks.catalogue import find
from petl_bench.tasks.labels import Example
from petl_bench.tasks.metrics import score
from petl_bench.tasks.rates import parse
from petl_bench.tasks.store import TrainingStore

from .conftest import WORDS, save_tiny_t5, write_lines

pytest.importorskip("sklearn", reason="pip install petl-bench[tasks]")

PROMPT = ["rte", "stsb", "sentence1", "sentence2", ":", "entailment", "not_entailment"]
NUMBERS = [f"{fifths / 5:.1f}" for fifths in range(26)]


@pytest.fixture(scope="module")
def tokenizer():
    """A word a token, with the end's last."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *PROMPT, *NUMBERS, *WORDS]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\w.]+|:"), "removed", invert=True)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


@pytest.fixture(scope="module")
def backbone(tokenizer, tmp_path_factory):
    """Two layers of width 32, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("text") / "tiny"
    save_tiny_t5(folder, tokenizer)
    return folder


def made_answers(name, names, tokenizer):
    from petl_bench.tasks.answers import Labels

    return Labels(find(name), names, tokenizer)


def trained(backbone, folder, name, methods, rows, **asked):
    from petl_bench.tasks.planning import Asked, Bench
    from petl_bench.tasks.running import run

    folder.mkdir()
    for split in ("train", "validation", "test"):
        write_lines(folder / f"{split}.jsonl", rows)
    task = find(name)
    bench = Bench(task=task, splits=splits.load(task, folder), weights=weights.find(str(backbone)))
    plan = bench.plan(methods, [0], Asked(**asked))
    store = TrainingStore(folder / "run")
    return list(run(bench, plan, store, cards.find(DEFAULT_CARD), lambda _: None))


def test_texts_and_words_are_those_of_the_paper(tokenizer):
    answers = made_answers("rte", find("rte").labels, tokenizer)
    example = Example(("the film", "a plot"), 1)
    assert answers.source(example) == "rte sentence1: the film sentence2: a plot"
    assert tokenizer.decode(answers.target(example)) == "not_entailment </s>"


def test_a_number_is_said_to_a_fifth_and_read_as_it_is_said(tokenizer):
    from petl_bench.tasks.answers import number_names

    answers = made_answers("stsb", number_names([0.0, 2.51, 5.0]), tokenizer)
    target = answers.target(Example(("a", "b"), 2.51))
    assert tokenizer.decode(target) == "2.6 </s>"
    rows = [target, [*tokenizer("4.4")["input_ids"]], tokenizer("film")["input_ids"], [1, 0]]
    said = answers.said(rows)
    assert said == pytest.approx([2.6, 4.4, -1.0, -1.0])  # 4.4 is no label, and a number


def test_a_number_is_learnt_as_text(backbone, tmp_path):
    marks = {"good": 4.6, "bad": 1.0, "film": 3.0}
    rows = [
        {"sentence1": word, "sentence2": "the plot", "label": mark} for word, mark in marks.items()
    ] * 12
    (record,) = trained(
        backbone,
        tmp_path / "data",
        "stsb",
        "full",
        rows,
        batch_size=9,
        epochs=10,
        learning_rates=parse("1e-2"),
    )
    assert record.status is Status.OK, record.reason
    assert record.outcome.test["pearson"] > 0.9
    assert record.constant == {"pearson": 0.0, "spearman": 0.0}


def test_every_method_of_the_paper_is_trained_and_asked(backbone, tmp_path):
    rows = [
        {"sentence1": word, "sentence2": "the plot", "label": label}
        for word, label in [("good", "entailment"), ("bad", "not_entailment")] * 8
    ]
    methods = (
        "full,adapter[bottleneck=4],lora[r=2,biases=all],bitfit,prompt[tokens=4],lst[reduction=2]"
    )
    records = trained(backbone, tmp_path / "data", "rte", methods, rows, batch_size=8, max_steps=2)
    assert [record.reason for record in records] == [None] * 6
    for record in records:
        assert 0 <= score(record.outcome.test) <= 1
        assert record.simulated is not None
        assert record.simulated.source_length_tokens == 9
