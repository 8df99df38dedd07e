"""All that pre-training and what follows it need, in one folder: bundle.py CORPUS FOLDER.

    tokenizer/        trained on the corpus: SentencePiece's unigrams and T5's hundred sentinels
    tokens.npz        the corpus in tokens, uint16 [T]: train, validation
    corpus.json       how much there is of it, and of what text
    tasks/TASK/       train, validation and test of the tasks that methods are tried on

CORPUS has a paragraph a line. Of its tokens every hundredth block of 10,000 is held out. The tasks
are the packaged reviews and, with --rte, a folder's: what follows needs no network, and no package
but petl-bench's own.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import UnigramTrainer
from transformers import PreTrainedTokenizerFast

from petl_bench.errors import UsageError
from petl_bench.tasks import packaged

SENTINELS = 100  # T5's
SAMPLE = 10_000_000  # characters that the tokenizer learns from, at most about so many
BLOCK = 10_000
HELD_OUT = 100
PADDING, END, UNKNOWN = "<pad>", "</s>", "<unk>"  # 0, 1 and 2, as in T5
MOST_WORDS = 2**16 - SENTINELS


def main() -> int:
    options = _options()
    folder: Path = options.folder
    try:
        paragraphs = options.corpus.read_text(encoding="utf-8").splitlines()
        tasks = {"reviews": _reviews()}
        if options.rte is not None:
            tasks["rte"] = _files(options.rte)
    except (OSError, UnicodeDecodeError, UsageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for task, files in tasks.items():
        (folder / "tasks" / task).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / "tasks" / task / name).write_text(content, encoding="utf-8")
    tokenizer = trained_tokenizer(paragraphs, options.words)
    tokenizer.save_pretrained(folder / "tokenizer")
    train, validation = divided(in_tokens(tokenizer, paragraphs))
    np.savez_compressed(folder / "tokens.npz", train=train, validation=validation)
    about = {
        "paragraphs": len(paragraphs),
        "characters": sum(map(len, paragraphs)),
        "sha256": hashlib.sha256(options.corpus.read_bytes()).hexdigest(),
        "train_tokens": len(train),
        "validation_tokens": len(validation),
        "words": len(tokenizer),
    }
    (folder / "corpus.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(about, indent=2))
    return 0


def trained_tokenizer(paragraphs: Sequence[str], words: int) -> Any:
    """Of up to `words` unigrams and, at the vocabulary's end, T5's sentinels.

    The first one, <extra_id_0>, is the last word: they count down (Raffel et al. 2020).
    """
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=words,
        special_tokens=[PADDING, END, UNKNOWN],
        unk_token=UNKNOWN,
        show_progress=False,
    )
    every = -(-sum(map(len, paragraphs)) // SAMPLE)
    made.train_from_iterator(paragraphs[::every], trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {END}",
        pair=f"$A {END} $B {END}",
        special_tokens=[(END, made.token_to_id(END))],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=PADDING,
        eos_token=END,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
    )
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(SENTINELS))]
    tokenizer.add_special_tokens({"additional_special_tokens": sentinels})
    return tokenizer


def in_tokens(tokenizer: Any, paragraphs: Sequence[str]) -> np.ndarray:
    """The tokens of all paragraphs in a row, [T]; nothing stands between two, as in T5."""
    return np.concatenate([np.zeros(0, np.uint16), *_encoded(tokenizer, paragraphs)])


def _encoded(tokenizer: Any, paragraphs: Sequence[str]) -> Iterator[np.ndarray]:
    for start in range(0, len(paragraphs), 10_000):
        part = list(paragraphs[start : start + 10_000])
        for ids in tokenizer(part, add_special_tokens=False)["input_ids"]:
            yield np.asarray(ids, np.uint16)


def divided(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those to train with, and those held out, [T] each, in their order."""
    block = np.arange(len(tokens)) // BLOCK
    held_out = block % HELD_OUT == HELD_OUT - 1
    return tokens[~held_out], tokens[held_out]


def _reviews() -> dict[str, str]:
    return {
        f"{split}.jsonl": "".join(json.dumps(row.fields) + "\n" for row in rows)
        for split, rows in packaged.DATA["reviews"]().items()
    }


def _files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jsonl"))}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="a paragraph a line, UTF-8")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--words", type=int, default=16_000, help="unigrams (%(default)s)")
    parser.add_argument("--rte", metavar="DIR", type=Path, help="RTE's splits as JSON Lines")
    options = parser.parse_args()
    if not 1 <= options.words <= MOST_WORDS:
        parser.error(f"--words: 1 to {MOST_WORDS}")
    return options


if __name__ == "__main__":
    sys.exit(main())
