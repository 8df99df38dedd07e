"""A tiny encoder with random weights, and a made-up task that it can learn in a second."""

import json
import random

import pytest

WORDS = ["good", "bad", "film", "the", "a", "is", "was", "plot", "actor"]


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory):
    """A folder as `save_pretrained` writes it: two layers of width 32."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    words = folder / "vocab.txt"
    words.write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab=str(words)).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def save_tiny_t5(folder, tokenizer):
    """A T5 of two layers of width 32 and its tokenizer, as `save_pretrained` writes them."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)


def make_examples(count, seed):
    """Sentences with one telling word among others; of each label about half."""
    rng = random.Random(seed)  # noqa: S311 - examples, no secrets
    examples = []
    for _ in range(count):
        label = rng.randrange(2)
        words = [rng.choice(WORDS[2:]) for _ in range(rng.randrange(3, 9))]
        words.insert(rng.randrange(len(words)), WORDS[label])
        examples.append({"text": " ".join(words), "label": ["fresh", "rotten"][label]})
    return examples


def write_lines(path, examples):
    lines = (json.dumps(example) + "\n" for example in examples)
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def data_folder(tmp_path):
    """Local data of the task `sentence`."""
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, (split, count) in enumerate({"train": 160, "validation": 40, "test": 60}.items()):
        write_lines(folder / f"{split}.jsonl", make_examples(count, seed))
    return folder
