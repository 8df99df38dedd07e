"""Answers in words: a label as the text that an encoder-decoder is to generate, and back.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.4, whose texts and label words these are;
numbers are rounded to a fifth, as there. (The code of Sung et al. 2022 has a class's number for its
word.) Questions about images stand alone, as in Shen et al. 2021, arXiv:2107.06383.

Legend: B batch, T target tokens.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from petl_bench.errors import UsageError
from petl_bench.tasks.labels import Example
from petl_bench.tasks.metrics import NO_CLASS
from petl_bench.tasks.task import Task

IGNORED = -100  # a label's token that is padding
_NO_NUMBER = -1.0  # what is generated and is none: as in Raffel et al.'s code
_STEPS = 5  # of a number, to one


def number_names(labels: Iterable[float]) -> list[str]:
    """What a regression's labels are called, each once.

    >>> number_names([5.0, 2.51, 2.45])
    ['2.4', '2.6', '5.0']
    """
    return [f"{label:.1f}" for label in sorted({_rounded(label) for label in labels})]


def _rounded(label: float) -> float:
    return round(label * _STEPS) / _STEPS


class Answers:
    """A task's labels as tokens, each with the end's."""

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
        self._classes: dict[tuple[int, ...], int] = {}
        for number, tokens in enumerate(self.tokens):
            other = self._classes.setdefault(self._told(tokens), number)
            if other != number:
                raise UsageError(
                    f"backbone: its tokenizer does not tell the labels {names[other]!r} and"
                    f" {names[number]!r} apart"
                )

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return max(map(len, self.tokens))

    def source(self, example: Example) -> str:
        """What the encoder reads."""
        if self._task.image is not None:
            return example.texts[0]
        named = zip(self._task.texts, example.texts, strict=True)
        return " ".join([self._task.name, *(f"{name}: {text}" for name, text in named)])

    def target(self, example: Example) -> list[int]:
        """What the decoder is to say."""
        if self._task.regression:
            (name,) = number_names([example.label])
            return self.tokens[self._names.index(name)]
        return self.tokens[int(example.label)]

    def said(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """The class, or the number, that each answer is, [B]; NO_CLASS, or -1, where it is none."""
        rows = [self._told(row) for row in tokens_BT.tolist()]
        if self._task.regression:
            found = [self._number(row) for row in rows]
        else:
            found = [self._classes.get(row, NO_CLASS) for row in rows]
        return torch.tensor(found, device=tokens_BT.device)

    def _number(self, tokens: Sequence[int]) -> float:
        try:
            number = float(self._tokenizer.decode(tokens, skip_special_tokens=True))
        except ValueError:
            return _NO_NUMBER
        return number if math.isfinite(number) else _NO_NUMBER

    def _told(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Up to the end; what is after it is padding."""
        ends = [place for place, token in enumerate(tokens) if token in {self._end, IGNORED}]
        return tuple(tokens[: min(ends, default=len(tokens))])
