"""CLUE's reading tasks: spans, choices, blanks, entities, in made-up Chinese that can be learnt."""

import json

import pytest

from petl_bench import cards
from petl_bench.cards import DEFAULT_CARD
from petl_bench.errors import UsageError
from petl_bench.record import Status
from petl_bench.tasks import splits, weights
from petl_bench.tasks.catalogue import find
from petl_bench.tasks.labels import Example
from petl_bench.tasks.metrics import score
from petl_bench.tasks.rates import parse
from petl_bench.tasks.store import TrainingStore

from .conftest import save_tiny_t5, write_lines

pytest.importorskip("sklearn", reason="pip install petl-bench[tasks]")

NAMES, PLACES = "张王李赵", "京沪广深"
CHARACTERS = sorted({*NAMES, *PLACES, *"在住谁哪里?。的人是城市第一二三四个_…"})


def of_a_span(number):
    name, place = NAMES[number % 4], PLACES[number // 4 % 4]
    context = f"{name}住在{place}。"
    return {
        "id": f"q{number}",
        "question": "在哪里?",
        "context": context,
        "answers": {"text": [place, f"在{place}"], "answer_start": [3, 2]},
    }


def of_a_choice(number):
    name, place = NAMES[number % 4], PLACES[number // 4 % 4]
    choices = [place, "人", "市"][: 2 + number % 2]
    return {
        "context": [f"{name}住在{place}。", "是的"],
        "question": "在哪里?",
        "choice": choices[::-1] if number % 3 else choices,
        "answer": place,
    }


def of_a_blank(number):
    candidates = [*NAMES, *PLACES, "人", "市"]
    place = number % 4
    return {
        "content": [f"#idiom{number}0#住在{PLACES[place]}。", f"人在#idiom{number}1#城市"],
        "candidates": candidates,
        "answers": {"text": [], "candidate_id": [place, 4 + place]},
    }


def of_entities(number):
    name, place = NAMES[number % 4], PLACES[number // 4 % 4]
    label = {"name": {name: [[0, 0]]}, "address": {f"{place}城": [[3, 4]]}}
    return {"text": f"{name}住在{place}城市", "label": label}


ROWS = {"cmrc2018": of_a_span, "c3": of_a_choice, "chid": of_a_blank, "cluener": of_entities}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Two layers of width 32 and a token a character, as `save_pretrained` writes them."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory):
    """A T5 likewise, whose tokens are characters and what else prompts and labels are made of."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("text") / "tiny"
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = dict.fromkeys(["<pad>", "</s>", "<unk>", " ", *letters, *CHARACTERS])
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    save_tiny_t5(folder, PreTrainedTokenizerFast(tokenizer_object=made, **special))
    return folder


@pytest.fixture
def data(tmp_path):
    """Writes made-up data of a task; its folder."""

    def write(name, counts=(16, 4, 8)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for split, count in zip(("train", "validation", "test"), counts, strict=True):
            write_lines(folder / f"{split}.jsonl", [ROWS[name](number) for number in range(count)])
        return folder

    return write


def run(backbone, folder, name, methods, **asked):
    from petl_bench.tasks.planning import Asked, Bench
    from petl_bench.tasks.running import run

    task = find(name)
    bench = Bench(task=task, splits=splits.load(task, folder), weights=weights.find(str(backbone)))
    plan = bench.plan(methods, [0], Asked(**asked))
    store = TrainingStore(folder / "run")
    return list(run(bench, plan, store, cards.find(DEFAULT_CARD), lambda _: None))


@pytest.mark.parametrize("name", ROWS)
def test_a_reading_task_is_learnt(encoder, data, name):
    rates = parse("1e-2")
    (record,) = run(
        encoder, data(name), name, "full", batch_size=8, epochs=15, learning_rates=rates
    )
    assert record.status is Status.OK, record.reason
    looks = record.outcome.evaluations
    assert looks[-1].train_loss < looks[0].train_loss / 2
    assert score(record.outcome.test) > score(record.constant) + 0.3


@pytest.mark.parametrize("name", ["cmrc2018", "chid", "cluener"])
def test_methods_train_each_head_and_their_step_is_simulated(encoder, data, name):
    methods = "lora[r=2],prompt[tokens=4],lst[reduction=2,head=side]"
    folder = data(name, (8, 2, 2))
    records = run(encoder, folder, name, methods, batch_size=8, max_steps=1)
    assert [record.reason for record in records] == [None] * 3
    assert None not in [record.simulated for record in records]


def test_a_choice_costs_the_memory_of_all_its_texts(encoder, data):
    from petl_bench.case import Case, Workload
    from petl_bench.profilers.simulated.era import ERAS
    from petl_bench.profilers.simulated.profiler import simulate

    (record,) = run(encoder, data("chid"), "chid", "full", batch_size=3, max_steps=1)
    classifier = weights.find(str(encoder)).backbone(1)
    workload = Workload(batch_size=30, source_length_tokens=12, target_length_tokens=None)
    assert record.simulated.source_length_tokens == 12  # 8 of a text, 1 of a choice, 3 around them
    case = Case(backbone=classifier, method=record.trial.method, workload=workload)
    of_texts = simulate(case, cards.find(DEFAULT_CARD), ERAS[None]).peak_allocated_bytes
    # One label an example instead of one a text, and the loss of ten scores instead of one.
    assert record.simulated.peak_allocated_bytes == pytest.approx(of_texts, rel=0.01)


@pytest.mark.parametrize(
    ("name", "target"),
    [("cmrc2018", "京"), ("c3", "1"), ("cluener", "address: 京城; name: 张")],
)
def test_it_is_also_said_in_words(encoder_decoder, data, name, target):
    from petl_bench.tasks.answers import answers
    from petl_bench.tasks.encoding import Encoder

    task = find(name)
    found = splits.load(task, data(name))
    encoder = Encoder(encoder_decoder, task)
    words = answers(task, found.labels, found.train, encoder.tokenizer)
    first = found.train[0]
    assert words.source(first).startswith(f"{name} ")
    assert encoder.tokenizer.decode(words.target(first)[:-1]) == target
    (said,) = words.said([words.target(first)])
    assert said == (first.label[0] if name == "cmrc2018" else first.label)


def test_words_are_trained_and_generated(encoder_decoder, data):
    (record,) = run(
        encoder_decoder,
        data("cmrc2018", (8, 4, 4)),
        "cmrc2018",
        "full",
        batch_size=8,
        epochs=12,
        learning_rates=parse("2e-2"),
    )
    assert record.status is Status.OK, record.reason
    looks = record.outcome.evaluations
    assert looks[-1].train_loss < looks[0].train_loss / 2
    assert set(record.outcome.test) == {"exact_match", "overlap_f1"}
    assert record.simulated is not None


def test_an_answer_beyond_the_first_window_is_found(encoder, data):
    from petl_bench.tasks.encoding import Encoder
    from petl_bench.tasks.scoring import Scorer, Split

    folder = data("cmrc2018")
    far = {
        "question": "在哪里?",
        "context": "人" * 70 + "张住在沪。",
        "answers": {"text": ["沪"], "answer_start": [73]},
    }
    write_lines(folder / "train.jsonl", [far])
    write_lines(folder / "test.jsonl", [far])
    task = find("cmrc2018")
    found = splits.load(task, folder)
    tokenizer = Encoder(encoder, task)
    (trained,) = tokenizer.encode(found.train, 32, trains=True)
    place = trained["start_positions"]
    assert place == trained["end_positions"]
    assert found.train[0].texts[1][slice(*trained["offsets"][place])] == "沪"
    windows = tokenizer.encode(found.test, 32)
    assert len(windows) > 2
    import numpy as np

    logits = np.full((len(windows), 32), -5.0)
    last = windows[-1]["offsets"].index((73, 74))
    logits[-1, last] = 5.0
    logits[0, 0] = 9.0  # not of the context, so no answer
    scorer = Scorer(task=task, labels=(), split=Split(examples=found.test, encoded=windows))
    assert scorer.of((logits, logits)) == {"exact_match": 1.0, "overlap_f1": 1.0}


def test_blanks_and_choices_are_examples_of_their_own(data):
    found = splits.load(find("chid"), data("chid"))
    candidates = (*NAMES, *PLACES, "人", "市")
    assert found.train[:2] == [
        Example(("____住在京。",), 0, choices=candidates),
        Example(("人在____城市",), 4, choices=candidates),
    ]
    found = splits.load(find("c3"), data("c3"))
    assert found.train[0] == Example(("在哪里?", "张住在京。\n是的"), 0, choices=("京", "人"))
    assert splits.load(find("c3"), data("c3")).sha256 == found.sha256


SPAN, CHOICE, BLANK, ENTITY = (make(0) for make in ROWS.values())


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        (
            "cmrc2018",
            {**SPAN, "id": "new", "answers": {"text": ["沪"], "answer_start": [3]}},
            "answer '沪' is not in its context",
        ),
        (
            "cmrc2018",
            {**SPAN, "id": "new", "answers": {"text": ["京"], "answer_start": []}},
            "answers is not lists text and answer_start of one length",
        ),
        (
            "cmrc2018",
            {**SPAN, "id": "new", "answers": {"text": [], "answer_start": []}},
            "answers is empty",
        ),
        ("cmrc2018", {"question": "a", "context": "b"}, "no field 'answers'; its fields are"),
        ("cmrc2018", SPAN, "id 'q0' is that of train.jsonl line 1, too"),
        ("c3", {**CHOICE, "answer": "深"}, "answer '深' is not one of its 2 choices"),
        ("c3", {**CHOICE, "choice": "京"}, "choice is 京, not a list of texts"),
        (
            "c3",
            {**CHOICE, "choice": ["京"] * 5},
            "choice is 5, not a list of 2 to 4",
        ),
        ("chid", {**BLANK, "content": ["没有"]}, "2 answers to 0 blanks"),
        ("chid", {**BLANK, "answers": {"candidate_id": [0]}}, "1 answers to 2 blanks"),
        (
            "chid",
            {**BLANK, "answers": {"candidate_id": [0, 10]}},
            "candidate_id 10 is not one of 10 candidates",
        ),
        ("cluener", {**ENTITY, "label": {"planet": {}}}, "label 'planet' is not one of address,"),
        (
            "cluener",
            {**ENTITY, "label": {"name": {"王": [[0, 0]]}}},
            "'王' is not at [0, 0] of it",
        ),
        ("cluener", {**ENTITY, "label": "name"}, "label is 'name', not an object"),
    ],
)
def test_a_bad_line_is_named(data, name, row, said):
    folder = data(name)
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UsageError) as caught:
        splits.load(find(name), folder)
    message = str(caught.value).replace(f"{folder}/", "")
    assert message.startswith(f"data: train.jsonl line 17: {said}")
    assert "\n" not in message


@pytest.mark.parametrize("name", ROWS)
def test_a_very_long_text_is_cut_or_read_in_windows(encoder, data, name):
    from petl_bench.tasks.encoding import Encoder, length

    folder, long = data(name), "人" * 100_000
    changes = {
        "cmrc2018": {"context": SPAN["context"] + long, "question": long},
        "c3": {"question": long, "context": [long]},
        "chid": {"content": [long + text + long for text in BLANK["content"]]},
        "cluener": {"text": ENTITY["text"] + long},
    }
    write_lines(folder / "test.jsonl", [{**ROWS[name](0), **changes[name]}])
    task = find(name)
    encoded = Encoder(encoder, task).encode(splits.load(task, folder).test, 64)
    assert max(map(length, encoded)) <= 64
    assert len(encoded) > 1000 if name == "cmrc2018" else len(encoded) <= 2


def test_free_words_need_a_backbone_that_has_them(encoder, tmp_path):
    from petl_bench.tasks.planning import Bench

    task = find("gqa")
    found = splits.Splits(task=task, labels=(), train=[Example((), ("a",))], validation=[], test=[])
    bench = Bench(task=task, splits=found, weights=weights.find(str(encoder)))
    with pytest.raises(UsageError, match="gqa is answered in words, and tiny is an encoder"):
        _ = bench.backbone
    assert not list(tmp_path.iterdir())
