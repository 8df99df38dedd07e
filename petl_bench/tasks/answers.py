"""Answers in words: what an encoder-decoder reads and is to generate, and what it means.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.4, whose texts and label words these are;
numbers are rounded to a fifth, as there. (The code of Sung et al. 2022 has a class's number for its
word.) Questions about images stand alone, as in Shen et al. 2021, arXiv:2107.06383.

Legend: N answers, T tokens of one.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from petl_bench.errors import UsageError
from petl_bench.tasks.labels import Example, target
from petl_bench.tasks.metrics import NO_CLASS
from petl_bench.tasks.task import Kind, Task

IGNORED = -100  # a label's token that is padding
_NO_NUMBER = -1.0  # what is generated and is none: as in Raffel et al.'s code
_STEPS = 5  # of a number, to one


class Answers(Protocol):
    """What a task's answers are in tokens."""

    longest: int
    """Tokens of the longest one, with the end's."""

    def source(self, example: Example) -> str:
        """What the encoder reads."""

    def target(self, example: Example) -> list[int]:
        """What the decoder is to say."""

    def said(self, tokens_NT: Sequence[Sequence[int]]) -> list[Any]:
        """What each answer means: a label, of the kind of the task's examples."""


def answers(task: Task, names: Sequence[str], train: Iterable[Example], tokenizer: Any) -> Answers:
    """Of a task with labels called `names`; numbers and free words are those of `train`.

    Raises:
        UsageError: two labels are the same tokens.
    """
    if task.in_words:
        return Words(task, names, train, tokenizer)
    return Labels(task, names or number_names(example.label for example in train), tokenizer)


def number_names(labels: Iterable[float]) -> list[str]:
    """What a regression's labels are called, each once.

    >>> number_names([5.0, 2.51, 2.45])
    ['2.4', '2.6', '5.0']
    """
    return [f"{label:.1f}" for label in sorted({_rounded(label) for label in labels})]


def _rounded(label: float) -> float:
    return round(label * _STEPS) / _STEPS


def source(task: Task, example: Example) -> str:
    """What the encoder reads."""
    if task.image is not None:
        return " ".join(example.texts) or f"{task.name}:"
    choices = (f"choice{number}: {text}" for number, text in enumerate(example.choices, start=1))
    named = zip(task.texts, example.texts, strict=True)
    # Choices first: what is too long is cut at its end.
    return " ".join([task.name, *choices, *(f"{name}: {text}" for name, text in named)])


class Labels:
    """One of a task's labels, each with the end's token."""

    def __init__(self, task: Task, names: Sequence[str], tokenizer: Any) -> None:
        """Of labels called `names`: a classification's, or a regression's numbers.

        Raises:
            UsageError: two of them are the same tokens.
        """
        self._task = task
        self._names = list(names)
        self._tokenizer = tokenizer
        self.tokens: list[list[int]] = tokenizer(text_target=self._names)["input_ids"]
        self._end = tokenizer.eos_token_id
        self.longest = max(map(len, self.tokens))
        self._classes: dict[tuple[int, ...], int] = {}
        for number, tokens in enumerate(self.tokens):
            other = self._classes.setdefault(_told(tokens, self._end), number)
            if other != number:
                raise UsageError(
                    f"backbone: its tokenizer does not tell the labels {names[other]!r} and"
                    f" {names[number]!r} apart"
                )

    def source(self, example: Example) -> str:
        """What the encoder reads."""
        return source(self._task, example)

    def target(self, example: Example) -> list[int]:
        """What the decoder is to say."""
        if self._task.kind is Kind.NUMBER:
            (name,) = number_names([example.label])
            return self.tokens[self._names.index(name)]
        return self.tokens[int(example.label)]

    def said(self, tokens_NT: Sequence[Sequence[int]]) -> list[int | float]:
        """The class, or the number, that each answer is; NO_CLASS, or -1, where it is none."""
        rows = [_told(row, self._end) for row in tokens_NT]
        if self._task.kind is Kind.NUMBER:
            return [self._number(row) for row in rows]
        return [self._classes.get(row, NO_CLASS) for row in rows]

    def _number(self, tokens: Sequence[int]) -> float:
        try:
            number = float(self._tokenizer.decode(tokens, skip_special_tokens=True))
        except ValueError:
            return _NO_NUMBER
        return number if math.isfinite(number) else _NO_NUMBER


class Words:
    """Free words; and entities as "class: words; class: words"."""

    def __init__(
        self, task: Task, names: Sequence[str], train: Iterable[Example], tokenizer: Any
    ) -> None:
        """As long as the longest answer in `train`, but not longer than the task's longest."""
        self._task = task
        self._names = set(names)
        self._tokenizer = tokenizer
        self._end = tokenizer.eos_token_id
        self.longest = max(len(self.target(example)) for example in train)

    def source(self, example: Example) -> str:
        """What the encoder reads."""
        return source(self._task, example)

    def target(self, example: Example) -> list[int]:
        """What the decoder is to say."""
        right = target(self._task, example)
        if self._task.kind is Kind.ENTITIES:
            right = "; ".join(f"{name}: {words}" for name, words in right)
        tokens: list[int] = self._tokenizer(
            text_target=right, truncation=True, max_length=self._task.max_answer_tokens
        )["input_ids"]
        return tokens

    def said(self, tokens_NT: Sequence[Sequence[int]]) -> list[Any]:
        """The text of each answer, or the entities in it."""
        rows = [list(_told(row, self._end)) for row in tokens_NT]
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        if self._task.kind is Kind.ENTITIES:
            return [self._entities(text) for text in texts]
        return [text.strip() for text in texts]

    def _entities(self, text: str) -> tuple[tuple[str, str], ...]:
        pairs = (part.partition(":") for part in text.split(";"))
        found = {(name.strip(), words.strip()) for name, _, words in pairs if words.strip()}
        return tuple(sorted(pair for pair in found if pair[0] in self._names))


def _told(tokens: Sequence[int], end: int) -> tuple[int, ...]:
    """Up to the end; what is after it is padding."""
    ends = [place for place, token in enumerate(tokens) if token in {end, IGNORED}]
    return tuple(tokens[: min(ends, default=len(tokens))])
