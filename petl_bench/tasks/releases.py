"""Questions about images and captions, in the files that they are released in, named by split.

    vqa      train_questions.json, train_annotations.json     v2_OpenEnded_..., v2_mscoco_...
    gqa      train_questions.json                             train_balanced_questions.json
    nlvr2    train.json                                       one example a line
    caption  train_captions.json                              captions_train2014.json

An image goes by its number, as the release writes it, and for NLVR2 by its file's name without the
ending. Sources: visualqa.org, cs.stanford.edu/people/dorarad/gqa, github.com/lil-lab/nlvr,
cocodataset.org.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl_bench.errors import UsageError
from petl_bench.tasks.files import Row, document, json_lines


def vqa(folder: Path, split: str) -> list[Row] | None:
    """Rows with question_id, question, image and answers.

    Raises:
        UsageError: a file is missing or not what it should be, or questions and annotations are
            not about the same.
    """
    path, answered = folder / f"{split}_questions.json", folder / f"{split}_annotations.json"
    if not path.is_file() and not answered.is_file():
        return None
    asked = _by_id(path, "questions", "question_id")
    annotated = _by_id(answered, "annotations", "question_id")
    for one, other, file in ((asked, annotated, answered), (annotated, asked, path)):
        missing = next((number for number in one if number not in other), None)
        if missing is not None:
            raise UsageError(f"data: {file} has nothing about question_id {missing}")
    rows = []
    for number, question in asked.items():
        answers, where = annotated[number], f"{path}: question_id {number}"
        if question.get("image_id") != answers.get("image_id"):
            raise UsageError(
                f"data: {where}: its image_id is {question.get('image_id')!r} there,"
                f" {answers.get('image_id')!r} in {answered.name}"
            )
        fields = {**question, "image": _image(question), "answers": answers.get("answers")}
        rows.append(Row(where, fields))
    return rows


def gqa(folder: Path, split: str) -> list[Row] | None:
    """Rows with question, image and answer.

    Raises:
        UsageError: the file is not what it should be.
    """
    path = folder / f"{split}_questions.json"
    if not path.is_file():
        return None
    found = document(path)
    if not isinstance(found, dict) or not found:
        raise UsageError(f"data: {path} is not an object with a question each")
    rows = []
    for number, question in found.items():
        where = f"{path}: question {number!r}"
        fields = _object(question, where)
        rows.append(Row(where, {**fields, "image": fields.get("imageId")}))
    return rows


def nlvr2(folder: Path, split: str) -> list[Row] | None:
    """Rows with sentence, images and label.

    Raises:
        UsageError: the file is not what it should be.
    """
    path = folder / f"{split}.json"
    if not path.is_file():
        return None
    rows = []
    for where, fields in json_lines(path):
        # dev-850-0-1 is the second sentence about dev-850-0-img0.png and dev-850-0-img1.png.
        pair, dash, _ = str(fields.get("identifier", "")).rpartition("-")
        if not dash:
            raise UsageError(f"data: {where}: identifier is not as in dev-850-0-1")
        rows.append(Row(where, {**fields, "images": [f"{pair}-img0", f"{pair}-img1"]}))
    return rows


def captions(folder: Path, split: str) -> list[Row] | None:
    """Rows with image and captions: a row an image.

    Raises:
        UsageError: the file is not what it should be, or a caption is of no image in it.
    """
    path = folder / f"{split}_captions.json"
    if not path.is_file():
        return None
    images = _by_id(path, "images", "id")
    found: dict[object, list[object]] = {number: [] for number in images}
    for number, fields in _by_id(path, "annotations", "id").items():
        image = fields.get("image_id")
        if image not in found:
            raise UsageError(
                f"data: {path}: annotation {number}: image_id {image!r} is none of its"
            )
        found[image].append(fields.get("caption"))
    return [
        Row(f"{path}: image {number}", {"image": str(number), "captions": said})
        for number, said in found.items()
    ]


def _by_id(path: Path, name: str, key: str) -> dict[object, Mapping[str, Any]]:
    """The objects in the document's list `name`, by their `key`."""
    found = document(path)
    listed = found.get(name) if isinstance(found, dict) else None
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"data: {path} has no list {name}, or an empty one")
    objects: dict[object, Mapping[str, Any]] = {}
    for number, each in enumerate(listed, start=1):
        where = f"{path}: {name} {number}"
        fields = _object(each, where)
        own = fields.get(key)
        if not isinstance(own, int | str):
            raise UsageError(f"data: {where}: {key} is {own!r}, not an id")
        if own in objects:
            raise UsageError(f"data: {where}: {key} {own} is there twice")
        objects[own] = fields
    return objects


def _object(fields: object, where: str) -> Mapping[str, Any]:
    if not isinstance(fields, Mapping):
        raise UsageError(f"data: {where} is not an object")
    return fields


def _image(fields: Mapping[str, Any]) -> object:
    """Its name; a number as text."""
    found = fields.get("image_id")
    return str(found) if isinstance(found, int) else found
