"""What a model says of a split, out of its outputs; and its scores.

Legend: N encoded examples, S tokens, C classes, T tokens of an answer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from petl_bench.tasks.answers import Answers
from petl_bench.tasks.encoding import Encoded, Offsets
from petl_bench.tasks.labels import Example
from petl_bench.tasks.metrics import scores
from petl_bench.tasks.task import Kind, Task


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split's examples, and how the model takes them."""

    examples: list[Example]
    encoded: Encoded  # in an order of their own; of one example there may be several


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores of one split of a task; `answers` as in the encoder."""

    task: Task
    labels: tuple[str, ...]
    split: Split
    answers: Answers | None = None

    def of(self, outputs: Any) -> dict[str, float]:
        """Each metric, by its name, of outputs [N, ...] in the order of the encoded examples."""
        examples = self.split.examples
        right = [example.label for example in examples]
        if self.answers is not None and not self.task.in_words:
            # As they can be said: a number has few digits.
            right = self.answers.said([self.answers.target(example) for example in examples])
        numbers = (each["example"] for each in self._firsts)
        found = dict(zip(numbers, self._said(outputs), strict=True))
        return scores(self.task.metrics, right, [found[number] for number in range(len(examples))])

    @property
    def _firsts(self) -> Encoded:
        """An encoded one of each example."""
        return list({each["example"]: each for each in self.split.encoded}.values())

    def _said(self, outputs: Any) -> list[Any]:
        """What is said of each of `_firsts`, in the kind of its label."""
        if self.answers is not None:
            return self.answers.said(np.asarray(outputs).tolist())
        kind = self.task.kind
        if kind is Kind.SPAN:
            return self._spans(*outputs[:2])
        logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
        if kind is Kind.NUMBER:
            return logits.reshape(-1).tolist()
        if kind is Kind.ENTITIES:
            rows = zip(logits, self.split.encoded, strict=True)
            return [self._entities(tags, each) for tags, each in rows]
        return logits.argmax(axis=-1).tolist()  # type: ignore[no-any-return]

    def _spans(self, starts_NS: Any, ends_NS: Any) -> list[str]:
        """The likeliest part of any of an example's windows."""
        best: dict[int, tuple[float, str]] = {}
        for start_S, end_S, each in zip(starts_NS, ends_NS, self.split.encoded, strict=True):
            text = self.split.examples[each["example"]].texts[-1]
            likelihood, (begin, end) = _likeliest(
                start_S, end_S, each["offsets"], self.task.max_answer_tokens
            )
            if likelihood > best.get(each["example"], (-np.inf, ""))[0]:
                best[each["example"]] = likelihood, text[begin:end]
        return [best.get(each["example"], (0.0, ""))[1] for each in self._firsts]

    def _entities(self, tags_S: Any, each: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        text = self.split.examples[each["example"]].texts[-1]
        found: list[list[int]] = []  # class, from, to
        before = 0
        for tag, place in zip(tags_S.tolist(), each["offsets"], strict=False):
            of_class = (tag - 1) // 2
            if place is None or tag <= 0:
                before = 0
                continue
            goes_on = tag % 2 == 0 and before > 0 and (before - 1) // 2 == of_class
            if goes_on:
                found[-1][2] = place[1]
            else:
                found.append([of_class, *place])
            before = tag
        return tuple(sorted({(self.labels[name], text[a:b]) for name, a, b in found}))


def _likeliest(
    start_S: Any, end_S: Any, offsets: Offsets, most_tokens: int
) -> tuple[float, tuple[int, int]]:
    """The sum of logits of the likeliest run of tokens in the context, and its characters."""
    tokens = np.array([token for token, place in enumerate(offsets) if place is not None])
    if not len(tokens):
        return -np.inf, (0, 0)
    likelihoods = start_S[tokens][:, None] + end_S[tokens][None, :]
    lengths = np.arange(len(tokens))[None, :] - np.arange(len(tokens))[:, None]
    likelihoods = np.where((lengths >= 0) & (lengths < most_tokens), likelihoods, -np.inf)
    first, last = np.unravel_index(np.argmax(likelihoods), likelihoods.shape)
    begin, end = offsets[tokens[first]], offsets[tokens[last]]
    assert begin is not None
    assert end is not None
    return float(likelihoods[first, last]), (begin[0], end[1])
