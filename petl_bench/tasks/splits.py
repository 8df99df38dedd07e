"""Train, validation and test of a task.

Where there is no labelled test split, validation is shuffled and halved; where there is no
validation split, 1,000 examples are held out of train, as in Sung et al. 2022 (the authors' code,
seed 42), but never more than a tenth.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petl_bench.errors import UsageError
from petl_bench.tasks import files, hub, packaged
from petl_bench.tasks.files import Row
from petl_bench.tasks.labels import Example, classes, examples, images, target
from petl_bench.tasks.task import Kind, Task
from petl_bench.tasks.vision.features import Features, read

_SEED = 42
_HELD_OUT = 1000


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A task's examples, ready for a tokenizer."""

    task: Task
    labels: tuple[str, ...]  # by number; none of a regression, or of free words
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
        """Of the task head: one a class, or one; two an entity's class, and one for no entity."""
        if self.task.kind is Kind.ENTITIES:
            return 2 * len(self.labels) + 1
        return len(self.labels) or 1

    @property
    def sha256(self) -> str:
        """Hash of every example, in order."""
        splits = (self.train, self.validation, self.test)
        content: list[object] = [self.labels]
        content += [[[*each[:2], *filter(None, each[2:])] for each in split] for split in splits]
        if self.features is not None:
            content.append(self.features.sha256)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def all(self) -> list[Example]:
        """Those of every split."""
        return [*self.train, *self.validation, *self.test]

    @property
    def most_frequent(self) -> Any:
        """What is right most often in train."""
        return Counter(target(self.task, each) for each in self.train).most_common(1)[0][0]


def load(task: Task, folder: Path | None, features_at: Path | None = None) -> Splits:
    """The task's data: from `folder` if it is given, else from a package or the hub.

    Features of images are those at `features_at`, or in the folder.

    Raises:
        UsageError: there is none, or it is not what the task needs.
    """
    rows: dict[str, list[Row] | None]
    if folder is not None:
        rows = _local(task, folder)
    elif task.name in packaged.DATA:
        rows = dict(packaged.DATA[task.name]())
    else:
        rows = hub.read(task)
    for of_split in rows.values():
        _check_ids(task, of_split or ())
    features = _features(task, folder, features_at)
    if features is not None:
        assert task.image is not None
        _check_images(features, task.image, [row for of in rows.values() for row in of or ()])
    names = classes(task, rows["train"] or ())
    if len(names) == 1:
        raise UsageError(f"data: the training split has one label alone, {names[0]!r}")
    found = {
        split: [
            each for row in of_split for each in examples(task, names, row, trains=split == "train")
        ]
        if of_split is not None
        else None
        for split, of_split in rows.items()
    }
    train, validation, test = _complete(**found)
    return Splits(
        task=task,
        labels=names,
        train=train,
        validation=validation,
        test=test,
        features=features,
    )


def _features(task: Task, folder: Path | None, features_at: Path | None) -> Features | None:
    if task.image is None:
        if features_at is not None:
            raise UsageError(f"features: {task.name} has no images")
        return None
    place = features_at or folder
    return read(place) if place is not None else packaged.FEATURES[task.name]()


def _check_ids(task: Task, rows: Iterable[Row]) -> None:
    """No two rows go by one id.

    Raises:
        UsageError: two do; the message says where.
    """
    if task.id is None:
        return
    seen: dict[object, str] = {}
    for row in rows:
        own = row.fields.get(task.id)
        if not isinstance(own, str | int):  # a table of one's own may have none
            continue
        if own in seen:
            raise UsageError(f"data: {row.where}: {task.id} {own!r} is that of {seen[own]}, too")
        seen[own] = row.where


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


def _local(task: Task, folder: Path) -> dict[str, list[Row] | None]:
    if not folder.is_dir():
        raise UsageError(f"data: no folder {str(folder)!r}")
    rows = {split: _split(task, folder, split) for split in ("train", "validation", "test")}
    if rows["train"] is None:
        choices = ", ".join(f"train{ending}" for ending in files.ENDINGS)
        raise UsageError(f"data: {folder} has none of {choices}")
    if rows["validation"] is None and rows["test"] is None:
        raise UsageError(f"data: {folder} has neither a validation nor a test split")
    return rows


def _split(task: Task, folder: Path, split: str) -> list[Row] | None:
    found = files.read(folder, split)
    if found is None and task.release is not None:
        return task.release(folder, split)
    return found


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
