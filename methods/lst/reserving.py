"""A reserved ladder: backbone and ladder pre-trained together, so that the ladder alone suffices.

    attach_lst(model, keep="all")
    with joint_training(model):             everything trains, the ladder speaks
        Trainer(model, ..., data_collator=SpanCorruption(...)).train()
    save_reserved(model, folder)            the backbone, and its ladder in folder/ladder
    ...
    model = from_pretrained(folder / "ladder")      frozen again: fine-tune the ladder

Source of the idea: the closing section of Su 2022, kexue.fm/archives/9138, which leaves it untried.
Encoders with a masked-language head take transformers' DataCollatorForLanguageModeling instead; the
ladder then goes beside a classifier by `load_lst(classifier, folder / "ladder")`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from petl_bench.method import freeze

from . import checkpoint
from .ladders import Ladders

IGNORED = -100  # a label that does not count, as everywhere in transformers
FOLDER = "ladder"  # inside the backbone's own


@contextmanager
def joint_training(model: Any) -> Iterator[None]:
    """Inside, the backbone trains with the active ladder, through whose head the loss comes.

    Raises:
        ValueError: no ladder is active.
    """
    ladders: Ladders = model.ladders
    if ladders.active is None:
        raise ValueError("no ladder is active: activate the one to train with its backbone")
    others = {
        parameter
        for name, ladder in ladders.items()
        if name != ladders.active
        for parameter in ladder.parameters()
    }
    try:
        for parameter in model.parameters():
            parameter.requires_grad = parameter not in others
        yield
    finally:
        freeze(model)
        ladders.activate(ladders.active)


def save_reserved(model: Any, folder: str | Path) -> None:
    """Write the backbone as its class does into `folder`, the active ladder into folder/ladder.

    Raises:
        ValueError: no ladder is active.
    """
    ladders: Ladders = model.ladders
    if ladders.active is None:
        raise ValueError("no ladder is active: activate the one to save")
    backbone = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("ladders.")
    }
    type(model).save_pretrained(model, folder, state_dict=backbone)
    # The backbone has moved since the ladder was attached, and has a folder of its own now.
    identity = checkpoint.BackboneIdentity.of(model)
    ladder = ladders[ladders.active]
    checkpoint.write_folder(
        Path(folder) / FOLDER,
        ladders.active,
        ladder.config,
        identity.model_copy(update={"name_or_path": str(folder)}),
        ladder.state_dict(),
    )


@dataclass
class SpanCorruption:
    """T5's pre-training objective as a collator: examples with `input_ids` to a batch.

    Spans of `span_length` tokens on average, `density` of all, are replaced by one sentinel each;
    the labels are the spans, each after its sentinel, and an end. Source: Raffel et al. 2020,
    arXiv:1910.10683, section 3.3.4. Sentinels count down from `first_sentinel`.

    Raises:
        ValueError: an example is too short to hide a part of it.
    """

    first_sentinel: int
    end: int = 1
    padding: int = 0
    density: float = 0.15
    span_length: float = 3.0
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` [B, S], `labels` [B, T]."""
        pairs = [self.corrupt([int(t) for t in e["input_ids"]]) for e in examples]
        sources = _padded([source for source, _ in pairs], self.padding)
        return {
            "input_ids": sources,
            "attention_mask": _padded([[1] * len(source) for source, _ in pairs], 0),
            "labels": _padded([target for _, target in pairs], IGNORED),
        }

    def lengths(self, tokens: int) -> tuple[int, int]:
        """Of source and target that an example of so many tokens becomes, ends included.

        >>> SpanCorruption(first_sentinel=32099).lengths(568)
        (512, 114)
        """
        hidden, spans = self._hidden(tokens)
        return tokens - hidden + spans + 1, hidden + spans + 1

    def fitting(self, source_length: int) -> int:
        """The most tokens of an example whose source is no longer than that.

        So packed, batches need no padding. (As `random_spans_helper` in T5's own code.)

        >>> SpanCorruption(first_sentinel=32099).fitting(512)
        568
        """
        tokens = source_length // 2
        while self.lengths(tokens + 1)[0] <= source_length:
            tokens += 1
        return tokens

    def _hidden(self, tokens: int) -> tuple[int, int]:
        """How many of so many tokens are hidden, and in how many spans."""
        hidden = max(round(tokens * self.density), 1)
        return hidden, max(round(hidden / self.span_length), 1)

    def corrupt(self, tokens: Sequence[int]) -> tuple[list[int], list[int]]:
        """Source and target of one example; `tokens` has no end."""
        hidden, spans = self._hidden(len(tokens))
        if len(tokens) - hidden < spans:
            raise ValueError(f"{len(tokens)} tokens are too few to hide {hidden} of them")
        shown_lengths = self._parts(len(tokens) - hidden, spans)
        hidden_lengths = self._parts(hidden, spans)
        source, target, at = [], [], 0
        for number in range(spans):
            sentinel = self.first_sentinel - number
            middle = at + shown_lengths[number]
            source += [*tokens[at:middle], sentinel]
            at = middle + hidden_lengths[number]
            target += [sentinel, *tokens[middle:at]]
        return [*source, self.end], [*target, self.end]

    def _parts(self, total: int, parts: int) -> list[int]:
        """`total` cut at random into `parts` that are at least 1."""
        cuts = torch.randperm(total - 1, generator=self.generator)[: parts - 1].sort().values + 1
        borders = [0, *cuts.tolist(), total]
        return [after - before for before, after in itertools.pairwise(borders)]


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
