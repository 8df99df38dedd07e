"""Examples as a backbone takes them: tokens, what is asked for, features of images; and batches.

Legend: B batch, C choices, S tokens.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
)

from petl_bench.errors import UsageError
from petl_bench.tasks.answers import IGNORED, Answers
from petl_bench.tasks.labels import Example
from petl_bench.tasks.quiet import quiet
from petl_bench.tasks.task import Kind, Task
from petl_bench.tasks.vision.features import Features

_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "tekken.json")
"""What a tokenizer cannot be without; transformers make up an empty one."""

_OF_A_SPAN = ["start_positions", "end_positions"]
_NO_CHOICE = "无效答案"  # CLUE's baseline: where an example has fewer than others
_OVERLAP = 4  # windows share this part of their tokens
_MOST_CHARACTERS = 20  # of a token, where a text is cut before it is tokens

Encoded = list[dict[str, Any]]
"""What of an example the model takes, what is asked for, and its number (`example`).

Of a long text there may be several, a window each; `offsets` has the characters of each token, None
of one that cannot be in an answer.
"""


Offsets = list[tuple[int, int] | None]


def length(encoded: dict[str, Any]) -> int:
    """Its tokens; those of its longest text."""
    ids = encoded["input_ids"]
    return max(map(len, ids)) if isinstance(ids[0], list) else len(ids)


class Encoder:
    """A backbone's folder, and its tokenizer; and what stands beside text in a batch.

    `answers` are set for a backbone that answers in text; `features` for a task with images.
    """

    def __init__(self, folder: Path, task: Task, features: Features | None = None) -> None:
        """Of the folder.

        Raises:
            UsageError: it has none, or one that does not pad, or does not tell where its tokens
                are for a task that asks for it.
        """
        self.folder = folder
        self.features = features
        self.answers: Answers | None = None
        self.task = task
        if not any(found for name in _VOCABULARIES for found in folder.glob(name)):
            raise UsageError(f"backbone: {folder} has no tokenizer")
        try:
            with quiet():  # of a model class that is not transformers'
                self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        except (OSError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise UsageError(f"backbone: the tokenizer in {folder} is amiss: {first}") from None
        if self.tokenizer.pad_token is None:
            raise UsageError(f"backbone: the tokenizer in {folder} has no padding token")
        if task.kind in {Kind.SPAN, Kind.ENTITIES} and not self.tokenizer.is_fast:
            raise UsageError(f"backbone: {task.name} needs the fast tokenizer of {folder}")

    @property
    def targets(self) -> list[str]:
        """Names of what is asked for, in a batch."""
        in_text = self.answers is not None or self.task.kind is not Kind.SPAN
        return ["labels"] if in_text else _OF_A_SPAN

    def encode(
        self, examples: Sequence[Example], max_length_tokens: int, *, trains: bool = False
    ) -> Encoded:
        """Every example, cut to `max_length_tokens`; a pair at the longer text.

        A text that an answer is to be found in is not cut but becomes windows, of which training
        sees the one with the answer.
        """
        kind = self.task.kind if self.answers is None else None
        if kind is Kind.CHOICE:
            return self._choices(examples, max_length_tokens)
        if kind is Kind.SPAN:
            return list(self._windows(examples, max_length_tokens, trains=trains))
        if kind is Kind.ENTITIES:
            return self._tagged(examples, max_length_tokens)
        return self._texts(examples, max_length_tokens)

    def collate(self, examples: Encoded) -> dict[str, torch.Tensor]:
        """A batch of encoded examples, padded to the longest."""
        names = {*self.tokenizer.model_input_names, *self.targets}
        taken = [{k: v for k, v in example.items() if k in names} for example in examples]
        if self.answers is not None:
            batch = dict(DataCollatorForSeq2Seq(self.tokenizer)(taken))
        elif self.task.kind is Kind.CHOICE:
            batch = self._folded(taken)
        elif self.task.kind is Kind.ENTITIES:
            batch = dict(DataCollatorForTokenClassification(self.tokenizer)(taken))
        else:
            batch = dict(DataCollatorWithPadding(self.tokenizer)(taken))
        if self.features is not None:
            images = [example["images"] for example in examples]
            batch["image_features"] = torch.from_numpy(self.features.batch(images))
        return batch

    def _texts(self, examples: Sequence[Example], max_length_tokens: int) -> Encoded:
        if self.answers is None:
            fields = zip(*(example.texts for example in examples), strict=True)
            texts = [[_short(text, max_length_tokens) for text in field] for field in fields]
            labels = [example.label for example in examples]
        else:
            sources = map(self.answers.source, examples)
            texts = [[_short(text, max_length_tokens) for text in sources]]
            labels = [self.answers.target(example) for example in examples]
        tokens = self.tokenizer(*texts, truncation=True, max_length=max_length_tokens)
        return [
            {
                **{name: values[number] for name, values in tokens.items()},
                "labels": label,
                "example": number,
                "images": example.images,
            }
            for number, (example, label) in enumerate(zip(examples, labels, strict=True))
        ]

    def _choices(self, examples: Sequence[Example], max_length_tokens: int) -> Encoded:
        """The last text with each choice, before which stand the others."""
        count = self.task.most_choices
        encoded = []
        for number, example in enumerate(examples):
            *before, last = example.texts
            choices = [*example.choices, *[_NO_CHOICE] * (count - len(example.choices))]
            tokens = self.tokenizer(
                [_short(last, max_length_tokens)] * count,
                [_short(" ".join([*before, each]), max_length_tokens) for each in choices],
                truncation=True,
                max_length=max_length_tokens,
            )
            encoded.append({**tokens, "labels": example.label, "example": number})
        return encoded

    def _folded(self, examples: Encoded) -> dict[str, torch.Tensor]:
        """Choices as texts of their own, padded, and back: [B, C, S]."""
        count = self.task.most_choices
        flat = [
            {name: values[choice] for name, values in example.items() if name != "labels"}
            for example in examples
            for choice in range(count)
        ]
        batch = dict(DataCollatorWithPadding(self.tokenizer)(flat))
        folded = {name: values.view(len(examples), count, -1) for name, values in batch.items()}
        return folded | {"labels": torch.tensor([example["labels"] for example in examples])}

    def _windows(
        self, examples: Sequence[Example], max_length_tokens: int, *, trains: bool
    ) -> Iterator[dict[str, Any]]:
        for number, example in enumerate(examples):
            question, context = example.texts
            question = self._cut(question, max_length_tokens // 2)
            pieces = self._pieces(question, context, max_length_tokens)
            tokens = self.tokenizer(
                [question] * len(pieces),
                [context[start:end] for start, end in pieces],
                truncation="only_second",
                max_length=max_length_tokens,
                return_offsets_mapping=True,
            )
            windows = []
            for window, (start, _) in enumerate(pieces):
                offsets = self._offsets(tokens, window, sequence=1, start=start)
                windows.append(
                    self._inputs(tokens, window)
                    | _answer_in(offsets, example)
                    | {"offsets": offsets, "example": number}
                )
            yield from [max(windows, key=lambda each: each["found"])] if trains else windows

    def _pieces(self, question: str, context: str, most_tokens: int) -> list[tuple[int, int]]:
        """Characters, from and to, of the parts of a context that fit beside the question.

        Not by the tokenizer's own overflow, whose memory grows with the square of their number.
        """
        places = self._places(context)
        room = most_tokens - len(self.tokenizer(question, "")["input_ids"])
        step = max(room - most_tokens // _OVERLAP, 1)
        firsts = range(0, max(len(places) - (room - step), 1), step)
        ends = (min(first + room, len(places)) for first in firsts)
        return [
            (places[first][0], places[end - 1][1]) if places else (0, 0)
            for first, end in zip(firsts, ends, strict=True)
        ]

    def _cut(self, text: str, most_tokens: int) -> str:
        places = self._places(text)
        return text[: places[most_tokens - 1][1]] if len(places) > most_tokens else text

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Characters, from and to, of each token of a whole text."""
        with quiet():  # that it is too long for the model is known
            tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        found: list[tuple[int, int]] = tokens["offset_mapping"]
        return found

    def _inputs(self, tokens: Any, number: int) -> dict[str, Any]:
        names = [name for name in self.tokenizer.model_input_names if name in tokens]
        return {name: tokens[name][number] for name in names}

    def _offsets(self, tokens: Any, number: int, *, sequence: int, start: int = 0) -> Offsets:
        """Characters, counted from `start`, of the tokens that an answer can be in."""
        pairs = zip(tokens["offset_mapping"][number], tokens.sequence_ids(number), strict=True)
        return [
            (start + first, start + end) if own == sequence and first < end else None
            for (first, end), own in pairs
        ]

    def _tagged(self, examples: Sequence[Example], max_length_tokens: int) -> Encoded:
        """A class a token: 0 outside, 2 k + 1 where an entity of class k begins, 2 k + 2 in it."""
        texts = [_short(example.texts[0], max_length_tokens) for example in examples]
        tokens = self.tokenizer(
            texts, truncation=True, max_length=max_length_tokens, return_offsets_mapping=True
        )
        encoded = []
        for number, example in enumerate(examples):
            offsets = self._offsets(tokens, number, sequence=0)
            beside = {"labels": _tags(offsets, example), "offsets": offsets, "example": number}
            encoded.append(self._inputs(tokens, number) | beside)
        return encoded


def _answer_in(offsets: Offsets, example: Example) -> dict[str, int]:
    """The answer's first and last token in a window, and how much of it is `found` there.

    Without a place, as in what is only looked at, or beyond the window: the first token of all.
    """
    start, end, _ = example.places[0] if example.places else (0, 0, 0)
    inside = _inside(offsets, start, end)
    first, last = (inside[0], inside[-1]) if inside else (0, 0)
    return {"start_positions": first, "end_positions": last, "found": len(inside)}


def _tags(offsets: Offsets, example: Example) -> list[int]:
    tags = [IGNORED if place is None else 0 for place in offsets]
    for start, end, number in example.places:
        inside = _inside(offsets, start, end)
        for token in inside:
            tags[token] = 2 * number + 1 + (token != inside[0])
    return tags


def _inside(offsets: Offsets, start: int, end: int) -> list[int]:
    """The tokens that have any of these characters."""
    places = ((token, place) for token, place in enumerate(offsets) if place is not None)
    return [token for token, (first, last) in places if first < end and last > start]


def _short(text: str, most_tokens: int) -> str:
    """The beginning of a text that is far too long.

    What a tokenizer cuts off it keeps, of a pair in every combination: gigabytes for 100,000
    characters.
    """
    return text[: _MOST_CHARACTERS * most_tokens]
