"""Questions about images and captions as they are released; their metrics by hand; features."""

import json
import math
import random

import numpy as np
import pytest

from petl_bench import cards
from petl_bench.cards import DEFAULT_CARD
from petl_bench.errors import UsageError
from petl_bench.record import Status
from petl_bench.tasks import splits, weights
from petl_bench.tasks.catalogue import find
from petl_bench.tasks.cider import cider_d
from petl_bench.tasks.labels import Example
from petl_bench.tasks.metrics import score
from petl_bench.tasks.rates import parse
from petl_bench.tasks.store import TrainingStore
from petl_bench.tasks.text_metrics import (
    answer_accuracy,
    entity_f1,
    exact_match,
    normal_answer,
    overlap_f1,
    vqa_accuracy,
)
from petl_bench.tasks.vision import features

COLOURS = ["red", "green", "blue"]
SIZE = 8


def test_vqa_counts_every_nine_of_ten_people():
    # Of ten people k say so. Leaving one of them out leaves k - 1, leaving another out leaves k.
    for count, expected in {
        0: 0,
        1: (1 * 0 + 9 / 3) / 10,
        2: (2 / 3 + 8 * 2 / 3) / 10,
        3: (3 * 2 / 3 + 7) / 10,
        4: 1,
        10: 1,
    }.items():
        people = ("red",) * count + ("blue",) * (10 - count)
        assert vqa_accuracy([people], ["red"]) == pytest.approx(expected)
    assert vqa_accuracy([("a",) * 10, ("two",) * 10], ["x", "2"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("said", "normal"),
    [
        ("The Red Bus.", "red bus"),
        ("two", "2"),
        ("None", "0"),
        ("1,000", "1000"),
        ("1.5 m", "1.5 m"),
        ("black/white", "black white"),
        ("no, thanks", "no thanks"),
        ("a\nb", "b"),
    ],
)
def test_an_answer_is_normalised_as_vqa_does(said, normal):
    assert normal_answer(said) == normal


def test_a_span_is_compared_as_cmrc_does():
    assert exact_match([("《北京》", "上海")], ["北京。"]) == 1
    assert exact_match([("北京",)], ["北京市"]) == 0
    # Common run 北京: twice 2 of 2 + 3; the words' runs are one segment each.
    assert overlap_f1([("北京",)], ["北京市"]) == pytest.approx(4 / 5)
    assert overlap_f1([("1998年",)], ["1998 年底"]) == pytest.approx(4 / 5)
    assert overlap_f1([("甲", "乙丙")], ["乙丁"]) == pytest.approx(1 / 2)
    assert overlap_f1([("甲",)], [""]) == 0


def test_entities_are_counted_class_by_class():
    right = [(("name", "a"), ("name", "b")), (("address", "c"),)]
    said = [(("name", "a"),), (("name", "d"),)]
    # name: 1 right of 2 there and 2 found; address: none.
    assert entity_f1(right, said) == pytest.approx((2 * 1 / 4 + 0) / 2)
    assert entity_f1(right, right) == 1
    assert entity_f1([()], [()]) == 1


def test_answers_are_compared_word_by_word():
    assert answer_accuracy([("Traffic light",), ("no",)], ["traffic  light", "yes"]) == 0.5


def test_cider_d_by_hand():
    references = [("a red bus",), ("a dog",)]
    # Two images, so a word of one weighs log 2 and "a", in both, nothing.
    assert cider_d(references, ["a red bus", "a dog"]) == pytest.approx(
        # Three sizes of n-grams of the first agree, two of the second; of four.
        (10 * 3 / 4 + 10 * 2 / 4) / 2
    )
    # "a red": 1-grams: red of (red, bus), 1 / sqrt 2; 2-grams: (a red) of (a red), (red bus);
    # no longer ones; a word too few.
    gaussian = math.exp(-1 / 72)
    assert cider_d(references, ["a red", "cat"]) == pytest.approx(
        10 * (2 / math.sqrt(2)) / 4 * gaussian / 2
    )
    # Said twice counts once: min(2, 1) * 1 / (2 * sqrt 2) of 1-grams, (red red) is of none, and the
    # norm of 2-grams has (a red) and (red red).
    first = 1 / (2 * math.sqrt(2))
    second = 1 / (math.sqrt(2) * math.sqrt(2))
    assert cider_d(references, ["a red red", "cat"]) == pytest.approx(10 * (first + second) / 4 / 2)


def make_features():
    rng = np.random.default_rng(0)
    return {
        f"{number}": np.eye(SIZE, dtype=np.float16)[number % 3]
        + rng.uniform(0, 0.1, (49, SIZE)).astype(np.float16)
        for number in range(12)
    }


def write(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")


def write_vqa(folder, split, count, seed):
    rng = random.Random(seed)  # noqa: S311 - examples, no secrets
    asked, annotated = [], []
    for number in range(count):
        image = rng.randrange(12)
        colour = COLOURS[image % 3]
        own = {"question_id": 10 * seed + number, "image_id": image}
        asked.append({**own, "question": "what color is the shape?"})
        people = [colour] * 8 + ["dark", "light"]
        answers = [{"answer": each, "answer_id": n} for n, each in enumerate(people)]
        annotated.append({**own, "answers": answers, "multiple_choice_answer": colour})
    write(folder / f"{split}_questions.json", {"questions": asked})
    write(folder / f"{split}_annotations.json", {"annotations": annotated})


def write_captions(folder, split, count):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(count)]
    said = [
        {
            "id": 10 * number + n,
            "image_id": number,
            "caption": f"{word} {COLOURS[number % 3]} shape",
        }
        for number in range(count)
        for n, word in enumerate(("a", "the"))
    ]
    write(folder / f"{split}_captions.json", {"images": images, "annotations": said})


@pytest.fixture
def folder(tmp_path):
    """Both tasks as they are released, with features."""
    from safetensors.numpy import save_file

    for seed, (split, count) in enumerate({"train": 24, "validation": 6, "test": 9}.items(), 1):
        write_vqa(tmp_path, split, count, 100 * seed)
        write_captions(tmp_path, split, 12)
    save_file(make_features(), tmp_path / "grid.safetensors")
    return tmp_path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A CLIP-T5 of random weights that sees such images, and a word a token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from petl_bench.backbones.clip_t5.modeling import ClipT5, ClipT5Config

    place = tmp_path_factory.mktemp("weights") / "clip"
    text = ["caption", ":", "what", "color", "is", "the", "a", "shape", "?", "dark", "light"]
    words = ["<pad>", "</s>", "<unk>", *text, *COLOURS, *(f"<cell_{n}>" for n in range(9))]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(place)
    torch.manual_seed(0)
    config = ClipT5Config(
        vocab_size=len(words),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=4,
        feature_grid=7,
        pooled_grid=3,
        feature_size=SIZE,
        images=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    ClipT5(config).save_pretrained(place)
    return place


def run(backbone, folder, name, method, **asked):
    from petl_bench.tasks.planning import Asked, Bench
    from petl_bench.tasks.running import run

    task = find(name)
    found = splits.load(task, folder, folder / "grid.safetensors")
    bench = Bench(task=task, splits=found, weights=weights.find(str(backbone)))
    plan = bench.plan(method, [0], Asked(**asked))
    store = TrainingStore(folder / "run")
    (record,) = run(bench, plan, store, cards.find(DEFAULT_CARD), lambda _: None)
    return record


@pytest.mark.parametrize("name", ["vqa", "caption"])
def test_what_is_released_is_learnt_in_words(backbone, folder, name):
    pytest.importorskip("sklearn", reason="pip install petl-bench[tasks]")
    record = run(
        backbone, folder, name, "full", batch_size=8, epochs=12, learning_rates=parse("1e-2")
    )
    assert record.status is Status.OK, record.reason
    assert score(record.outcome.test) > score(record.constant) + 0.2
    assert record.simulated is not None


def test_questions_and_annotations_become_examples(folder):
    (first, *_) = splits.load(find("vqa"), folder, folder / "grid.safetensors").train
    assert first.texts == ("what color is the shape?",)
    assert len(first.label) == 10
    assert first.label.count(first.label[0]) == 8
    found = splits.load(find("caption"), folder, folder / "grid.safetensors")
    assert found.train[:2] == [
        Example((), ("a red shape",), ("0",)),
        Example((), ("the red shape",), ("0",)),
    ]
    assert found.test[0] == Example((), ("a red shape", "the red shape"), ("0",))


def test_gqa_and_nlvr2_are_read_as_released(tmp_path):
    np.savez(tmp_path / "grid.npz", **{"dev-1-0-img0": np.zeros((4, 2), np.float32)})
    for split in ("train", "validation", "test"):
        question = {"question": "is it red?", "imageId": "dev-1-0-img0", "answer": f"no {split}"}
        write(tmp_path / f"{split}_questions.json", {"01": question})
    found = splits.load(find("gqa"), tmp_path, tmp_path / "grid.npz")
    # An answer that train does not have is no unknown label: it counts as wrong.
    assert found.test == [Example(("is it red?",), ("no test",), ("dev-1-0-img0",))]
    pair = {name: np.zeros((4, 2), np.float32) for name in ("dev-1-0-img0", "dev-1-0-img1")}
    np.savez(tmp_path / "pair.npz", **pair)
    row = {"sentence": "two dogs", "label": "True", "identifier": "dev-1-0-3"}
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.json", row)
    found = splits.load(find("nlvr2"), tmp_path, tmp_path / "pair.npz")
    assert found.test == [Example(("two dogs",), 1, ("dev-1-0-img0", "dev-1-0-img1"))]
    write(tmp_path / "test.json", {**row, "identifier": "dev"})
    with pytest.raises(UsageError, match=r"test.json line 1: identifier is not as in dev-850-0-1"):
        splits.load(find("nlvr2"), tmp_path, tmp_path / "pair.npz")


def changed(folder, name, change):
    path = folder / name
    document = json.loads(path.read_text())
    change(document)
    write(path, document)


@pytest.mark.parametrize(
    ("task", "file", "change", "said"),
    [
        (
            "vqa",
            "test_annotations.json",
            lambda d: d["annotations"].pop(0),
            "test_annotations.json has nothing about question_id 3000",
        ),
        (
            "vqa",
            "test_questions.json",
            lambda d: d["questions"].pop(0),
            "test_questions.json has nothing about question_id 3000",
        ),
        (
            "vqa",
            "test_questions.json",
            lambda d: d["questions"].append(d["questions"][0]),
            "test_questions.json: questions 10: question_id 3000 is there twice",
        ),
        (
            "vqa",
            "test_questions.json",
            lambda d: d["questions"][0].update(image_id=99),
            "test_questions.json: question_id 3000: its image_id is 99 there,",
        ),
        (
            "vqa",
            "test_annotations.json",
            lambda d: d["annotations"][0].pop("answers"),
            "test_questions.json: question_id 3000: answers is empty",
        ),
        (
            "vqa",
            "test_questions.json",
            lambda d: d.pop("questions"),
            "test_questions.json has no list questions, or an empty one",
        ),
        (
            "vqa",
            "test_questions.json",
            lambda d: d["questions"].insert(0, 7),
            "test_questions.json: questions 1 is not an object",
        ),
        (
            "caption",
            "test_captions.json",
            lambda d: d["annotations"][0].update(image_id=99),
            "test_captions.json: annotation 0: image_id 99 is none of its",
        ),
        (
            "caption",
            "test_captions.json",
            lambda d: d["images"].append({"id": 12}),
            "test_captions.json: image 12: captions is empty",
        ),
        (
            "caption",
            "test_captions.json",
            lambda d: d["annotations"][0].update(caption=7),
            "test_captions.json: image 0: captions is 7, not a text",
        ),
    ],
)
def test_what_does_not_go_together_is_named(folder, task, file, change, said):
    changed(folder, file, change)
    if "12" in said:
        pytest.importorskip("safetensors")
        grids = make_features() | {"12": make_features()["0"]}
        np.savez(folder / "grid.npz", **grids)
    place = folder / ("grid.npz" if "12" in said else "grid.safetensors")
    with pytest.raises(UsageError) as caught:
        splits.load(find(task), folder, place)
    message = str(caught.value).replace(f"{folder}/", "")
    assert message.startswith(f"data: {said}")
    assert "\n" not in message


def test_a_document_that_is_none_is_named_with_its_line(folder):
    path = folder / "test_questions.json"
    for content, said in [
        (b'{"questions":\n [}', "line 2 is not JSON"),
        (b'{"questions": [],\n "x": "\xff"}', "line 2 is not UTF-8 text"),
        (b'{"questions": [], "questions": []}', "'questions' is there twice"),
        (b"[" * 100_000, "is nested too deeply"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UsageError, match=said):
            splits.load(find("vqa"), folder, folder / "grid.safetensors")
    path.unlink()
    with pytest.raises(UsageError, match=r"cannot read .*test_questions.json: No such file"):
        splits.load(find("vqa"), folder, folder / "grid.safetensors")


def test_features_come_in_a_file_or_a_folder(folder):
    made = make_features()
    np.savez(folder / "grid.npz", **made)
    names = sorted(made)
    np.save(folder / features.ARRAY, np.stack([made[name] for name in names]))
    (folder / features.NAMES).write_text("\n".join(names))
    found = [features.read(folder / name) for name in ("grid.safetensors", "grid.npz", "")]
    assert len({each.sha256 for each in found}) == 1
    for each in found:
        batch = each.batch([["3", "11"], ["0", "0"]])
        assert batch.shape == (2, 98, SIZE)
        assert (batch[0, 49:] == made["11"].astype(np.float32)).all()


def test_hdf5_is_read_as_the_authors_write_it(tmp_path):
    h5py = pytest.importorskip("h5py", reason="pip install h5py")
    grid = make_features()["0"]
    with h5py.File(tmp_path / "grid.h5", "w") as file:
        file.create_group("7")["features"] = grid
        file["8"] = grid + 1
    found = features.read(tmp_path / "grid.h5")
    assert (found.batch([["8"]])[0] == (grid + 1).astype(np.float32)).all()


def test_a_file_that_holds_no_features_is_refused(folder, monkeypatch):
    (folder / "bad.safetensors").write_bytes(b"x" * 20)
    (folder / "bad.npz").write_bytes(b"PK and no more")
    np.savez(folder / "flat.npz", a=np.zeros(3))
    np.savez(folder / "none.npz")
    grids = {"a": np.zeros((4, 2), np.float32), "b": np.zeros((5, 2), np.float32)}
    np.savez(folder / "uneven.npz", **grids)
    for name, said in {
        "bad.safetensors": "is not what its name says",
        "bad.npz": "is not what its name says",
        "flat.npz": "'a' is float64 of shape",
        "none.npz": "holds no images",
        "nowhere.npz": "no file ",
    }.items():
        with pytest.raises(UsageError, match=f"data: .*{said}"):
            features.read(folder / name)
    with pytest.raises(UsageError, match=r"features of 'b' are \[5, 2\], those of 'a' \[4, 2\]"):
        features.read(folder / "uneven.npz").batch([["b"]])
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (folder / "grid.h5").touch()
    with pytest.raises(UsageError, match="needs h5py; pip install h5py"):
        features.read(folder / "grid.h5")
    with pytest.raises(UsageError, match="features: rte has no images"):
        splits._features(find("rte"), None, folder)
