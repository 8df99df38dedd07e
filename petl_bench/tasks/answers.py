"""Answers in words: a class as the text that an encoder-decoder is to generate, and back.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.4, whose texts are the source's; questions
about images stand alone, as in Shen et al. 2021, arXiv:2107.06383.

Legend: B batch, T target tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch

from petl_bench.errors import UsageError
from petl_bench.tasks.labels import Example
from petl_bench.tasks.task import Task

IGNORED = -100  # a label's token that is padding
NO_ANSWER = -1  # what is generated and is no class


class Answers:
    """A task's classes as tokens, each with the end's."""

    def __init__(self, task: Task, names: Sequence[str], tokenizer: Any) -> None:
        """Of classes called `names`.

        Raises:
            UsageError: two of them are the same tokens.
        """
        self._task = task
        words = [name.replace("_", " ") for name in names]
        self.tokens: list[list[int]] = tokenizer(text_target=words)["input_ids"]
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

    def classes(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """The class that each answer is, [B], or NO_ANSWER."""
        found = [self._classes.get(self._told(row), NO_ANSWER) for row in tokens_BT.tolist()]
        return torch.tensor(found, device=tokens_BT.device)

    def _told(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Up to the end; what is after it is padding."""
        ends = [place for place, token in enumerate(tokens) if token in {self._end, IGNORED}]
        return tuple(tokens[: min(ends, default=len(tokens))])
