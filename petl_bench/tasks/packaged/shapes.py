"""shapes-mini: a small CLIP-T5 that is pre-trained here, on what the task easy-vqa leaves out.

No package has weights of this architecture, and a frozen backbone of random weights would tell
nothing of a method. So it learns two things from a thousand images that the task leaves out: to
answer their open questions (which shape, which colour), and to fill in a word that is masked in
their yes-or-no questions, whose answers it never sees. Methods then train on all kinds of questions
about other images; three quarters of them are to be answered with yes or no.

Source of the two objectives: Cho et al. 2021, arXiv:2102.02779, section 4.1 (VL-T5).
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.tasks.packaged import cache, easy_vqa
from petl_bench.tasks.packaged.easy_vqa import Question
from petl_bench.tasks.quiet import quiet
from petl_bench.tasks.vision.features import Features

_LAYOUT = 1  # of the folder made here, and of how it is trained
_SEED = 42
_STEPS = 600
_BATCH_SIZE = 64
_LEARNING_RATE = 1e-3
_WARMUP_STEPS = 50
_POOLED_GRID = 3
_SHAPE: dict[str, Any] = {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 512,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "feature_grid": 7,
    "pooled_grid": _POOLED_GRID,
    "images": 1,
}
_PADDING, _END, _UNKNOWN, _MASK = "<pad>", "</s>", "<unk>", "<mask>"
_CLOSED = ("yes", "no")


class _Pair(NamedTuple):
    source: str
    target: str
    image: str


def folder() -> Path:
    """The folder of shapes-mini, pre-trained where it is not there: two minutes, 6 MB.

    Raises:
        UsageError: a package is not installed, or the disk does not take the folder.
    """
    name = f"shapes-mini-{easy_vqa.release('backbone')}-{_LAYOUT}"
    return cache.made(name, lambda made: _make(made, easy_vqa.image_features(), _STEPS))


def _make(made: Path, features: Features, steps: int) -> None:
    questions = [q for q in easy_vqa.questions("train") if easy_vqa.for_pretraining(q)]
    tokenizer = _tokenizer(questions)
    model = _pretrained(tokenizer, questions, features, steps)
    with quiet():
        model.save_pretrained(made)
    tokenizer.save_pretrained(made)


def _tokenizer(questions: Sequence[Question]) -> Any:
    """A word a token; the vocabulary ends in names of an image's cells."""
    from tokenizers import (  # noqa: PLC0415 - only where the folder is made
        Tokenizer,
        models,
        pre_tokenizers,
        processors,
    )
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - likewise

    split = pre_tokenizers.Whitespace()
    texts = {text for question in questions for text in (question.text, question.answer)}
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    cells = [f"<cell_{number}>" for number in range(_POOLED_GRID**2)]
    vocabulary = [_PADDING, _END, _UNKNOWN, _MASK, *words, *cells]
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token=_UNKNOWN)
    )
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", pair=f"$A $B {_END}", special_tokens=[(_END, vocabulary.index(_END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PADDING,
        eos_token=_END,
        unk_token=_UNKNOWN,
        mask_token=_MASK,
        model_input_names=["input_ids", "attention_mask"],
    )


def _pretrained(
    tokenizer: Any, questions: Sequence[Question], features: Features, steps: int
) -> Any:
    import torch  # noqa: PLC0415 - seconds
    from transformers import get_linear_schedule_with_warmup  # noqa: PLC0415 - likewise

    from petl_bench.backbones.clip_t5.modeling import ClipT5, ClipT5Config  # noqa: PLC0415

    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        size = features.array.shape[-1]
        config = ClipT5Config(
            **_SHAPE,
            vocab_size=len(tokenizer),
            feature_size=size,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
        model = ClipT5(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
        schedule = get_linear_schedule_with_warmup(optimizer, _WARMUP_STEPS, steps)
        for batch in _batches(questions, steps):
            inputs = tokenizer([p.source for p in batch], padding=True, return_tensors="pt")
            targets = tokenizer([p.target for p in batch], padding=True, return_tensors="pt")
            labels = targets["input_ids"].masked_fill(targets["attention_mask"] == 0, -100)
            images = torch.from_numpy(features.batch([[p.image] for p in batch]))
            loss = model(**inputs, labels=labels, image_features=images).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval()


def _batches(questions: Sequence[Question], steps: int) -> Iterator[list[_Pair]]:
    """Half of each batch are open questions, half are others with a word masked."""
    rng = random.Random(_SEED)  # noqa: S311 - no secret
    of_two = [q for q in questions if q.answer in _CLOSED]
    of_many = [q for q in questions if q.answer not in _CLOSED]
    half = _BATCH_SIZE // 2
    for _ in range(steps):
        answered = [_Pair(q.text, q.answer, q.image) for q in rng.choices(of_many, k=half)]
        yield answered + [_masked(q, rng) for q in rng.choices(of_two, k=half)]


def _masked(question: Question, rng: random.Random) -> _Pair:
    words = question.text.removesuffix("?").split()
    place = rng.randrange(len(words))
    source = " ".join([*words[:place], _MASK, *words[place + 1 :]]) + "?"
    return _Pair(source, words[place], question.image)
