"""What a task is: its fields, its labels, its metrics and where its data is."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from petl_bench.tasks.files import Row


class Kind(StrEnum):
    """What an example asks for."""

    CLASS = "class"  # one of the task's labels
    NUMBER = "number"
    CHOICE = "choice"  # the number of the right one among texts of its own
    SPAN = "span"  # a part of the last text
    ENTITIES = "entities"  # parts of the text, each of one of the labels
    WORDS = "words"  # an answer in free words


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Where the Hugging Face hub has a task, and which of its splits are used."""

    path: str
    config: str
    validation: str | None = "validation"
    test: str | None = None  # None also where the hub's has no labels


@dataclass(frozen=True, kw_only=True)
class Task:
    """Texts, and what they ask for.

    `labels` are the classes in the order of their numbers; None: those of the training split.
    The score is the mean of the metrics.
    """

    name: str
    texts: tuple[str, ...]  # fields: one or two, or none beside an image
    kind: Kind = Kind.CLASS
    label: str = "label"
    choices: str = "choices"  # the field with those of a CHOICE
    most_choices: int = 1  # of an example
    id: str | None = None  # a field that no two examples of a split may share
    image: str | None = None  # the field that names an example's images; see `vision.features`
    # What a row's fields become before they are read: those of each of its examples. ValueError
    # where they do not fit.
    adapt: Callable[[Mapping[str, object]], Iterable[Mapping[str, object]]] | None = None
    # Reads a folder's split where it lies as it was released; None where it does not.
    release: Callable[[Path, str], list[Row] | None] | None = None
    labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("accuracy",)
    each: bool = False  # training has an example for every answer, not for the likeliest alone
    epochs: int = 10
    batch_size: int = 100
    max_length_tokens: int = 128  # of what is read; longer texts are cut
    max_answer_tokens: int = 32  # of WORDS, or of a SPAN or ENTITIES that are said in words
    hub: Hub | None = None
    backbone: str = "all-MiniLM-L6-v2"  # that `train` takes where none is named

    @property
    def in_words(self) -> bool:
        """Whether an encoder-decoder says it freely, where others name one of the labels."""
        return self.kind in {Kind.SPAN, Kind.ENTITIES, Kind.WORDS}
