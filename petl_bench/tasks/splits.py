"""Train, validation and test of a task.

Where there is no labelled test split, validation is shuffled and halved; where there is no
validation split, 1,000 examples are held out of train, as in Sung et al. 2022 (the authors' code,
seed 42), but never more than a tenth.
"""

import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from petl_bench.errors import UsageError
from petl_bench.tasks import files, hub, packaged
from petl_bench.tasks.labels import Example, Row, classes, example, images
from petl_bench.tasks.task import Task
from petl_bench.tasks.vision.features import Features, read

_SEED = 42
_HELD_OUT = 1000


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A task's examples, ready for a tokenizer."""

    labels: tuple[str, ...]  # of a classification
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    features: Features | None = None  # of a task with images

    @property
    def images(self) -> int:
        """Of an example; 1 where it has none."""
        return len(self.train[0].images) or 1

    @property
    def outputs(self) -> int:
        """Of the task head: one a class, or one."""
        return len(self.labels) or 1

    @property
    def sha256(self) -> str:
        """Hash of every example, in order."""
        splits = (self.train, self.validation, self.test)
        if self.features is None:
            content = [self.labels, *([example[:2] for example in of] for of in splits)]
        else:
            content = [self.labels, *splits, self.features.sha256]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def numbers(self) -> set[float]:
        """A regression's labels."""
        return {each.label for split in (self.train, self.validation, self.test) for each in split}

    @property
    def most_frequent(self) -> int | float:
        """The label that train has most often."""
        return Counter(each.label for each in self.train).most_common(1)[0][0]


def load(task: Task, folder: Path | None) -> Splits:
    """The task's data: from `folder` if it is given, else from a package or the hub.

    Raises:
        UsageError: there is none, or it is not what the task needs.
    """
    rows: dict[str, list[Row] | None]
    if folder is not None:
        rows = _local(folder)
    elif task.name in packaged.DATA:
        rows = dict(packaged.DATA[task.name]())
    else:
        rows = hub.read(task)
    features = _features(task, folder)
    if features is not None:
        assert task.image is not None
        _check_images(features, task.image, [row for of in rows.values() for row in of or ()])
    names = classes(task, rows["train"] or ())
    if len(names) == 1:
        raise UsageError(f"data: the training split has one label alone, {names[0]!r}")
    found = {
        split: [example(task, names, row) for row in of_split] if of_split is not None else None
        for split, of_split in rows.items()
    }
    train, validation, test = _complete(**found)
    return Splits(labels=names, train=train, validation=validation, test=test, features=features)


def _features(task: Task, folder: Path | None) -> Features | None:
    if task.image is None:
        return None
    return read(folder) if folder is not None else packaged.FEATURES[task.name]()


def _check_images(features: Features, field: str, rows: list[Row]) -> None:
    """Every image is there, and every example has as many.

    Raises:
        UsageError: not so; the message says where.
    """
    count = len(images(field, rows[0]))
    for row in rows:
        names = images(field, row)
        if len(names) != count:
            raise UsageError(
                f"data: {row.where}: {len(names)} images; the first example has {count}"
            )
        for name in names:
            if name not in features.rows:
                raise UsageError(f"data: {row.where}: image {name!r} has no features")


def _local(folder: Path) -> dict[str, list[Row] | None]:
    if not folder.is_dir():
        raise UsageError(f"data: no folder {str(folder)!r}")
    rows = {split: files.read(folder, split) for split in ("train", "validation", "test")}
    if rows["train"] is None:
        choices = ", ".join(f"train{ending}" for ending in files.ENDINGS)
        raise UsageError(f"data: {folder} has none of {choices}")
    if rows["validation"] is None and rows["test"] is None:
        raise UsageError(f"data: {folder} has neither a validation nor a test split")
    return rows


def _complete(
    train: list[Example] | None, validation: list[Example] | None, test: list[Example] | None
) -> tuple[list[Example], list[Example], list[Example]]:
    assert train is not None
    if test is None:
        assert validation is not None
        test, validation = _cut(validation, len(validation) // 2)
    elif validation is None:
        validation, train = _cut(train, min(_HELD_OUT, len(train) // 10))
    for name, split in (("train", train), ("validation", validation), ("test", test)):
        if not split:
            raise UsageError(f"data: too few examples; none are left for {name}")
    return train, validation, test


def _cut(examples: list[Example], first: int) -> tuple[list[Example], list[Example]]:
    shuffled = random.Random(_SEED).sample(examples, len(examples))  # noqa: S311 - no secret
    return shuffled[:first], shuffled[first:]
