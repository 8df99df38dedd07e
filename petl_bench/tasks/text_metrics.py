"""Metrics of answers in words, where their benchmarks define them and no library of note has them.

exact_match, overlap_f1   CMRC 2018's official script (Cui et al. 2019, arXiv:1810.07366)
entity_f1                 CLUENER's (Xu et al. 2020, arXiv:2001.04351): the mean over classes
vqa_accuracy              VQA's (Antol et al. 2015, arXiv:1505.00468, section 4)
answer_accuracy           GQA's: the one answer, word by word
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from statistics import fmean

References = Sequence[tuple[str, ...]]
Entities = Sequence[tuple[tuple[str, str], ...]]

_CMRC_PUNCTUATION = frozenset(r"-:_*^/\~`+=，。：？！“”；’《》·、「」（）－～『』")  # noqa: RUF001
_CMRC_SEGMENTS = re.compile(r"[\u4e00-\u9fa5]|[^\W\u4e00-\u9fa5]+|[^\w\s]")


def exact_match(references: References, said: Sequence[str]) -> float:
    """The share of answers that are one of the references, punctuation apart."""
    return _best(references, said, lambda one, other: float(_bare(one) == _bare(other)))


def overlap_f1(references: References, said: Sequence[str]) -> float:
    """F1 of the longest common run of characters, or of words that are not Chinese.

    The script finds those words with NLTK's tokenizer; here they are runs of letters and digits.
    """
    return _best(references, said, _overlap)


def _overlap(one: str, other: str) -> float:
    ours, theirs = _CMRC_SEGMENTS.findall(_bare(one)), _CMRC_SEGMENTS.findall(_bare(other))
    common = SequenceMatcher(None, ours, theirs, autojunk=False).find_longest_match().size
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _bare(text: str) -> str:
    return "".join(char for char in text.lower().strip() if char not in _CMRC_PUNCTUATION)


def _best(references: References, said: Sequence[str], of: Callable[[str, str], float]) -> float:
    pairs = zip(references, said, strict=True)
    return fmean(max(of(one, answer) for one in of_example) for of_example, answer in pairs)


def entity_f1(entities: Entities, said: Entities) -> float:
    """The mean over classes of F1, where an entity is its class and words, once a text."""
    there, found, right = Counter[str](), Counter[str](), Counter[str]()
    for of_text, of_answer in zip(entities, said, strict=True):
        there.update(name for name, _ in set(of_text))
        found.update(name for name, _ in set(of_answer))
        right.update(name for name, _ in set(of_text) & set(of_answer))
    classes = there.keys() | found.keys()
    if not classes:
        return 1.0
    return fmean(2 * right[name] / (there[name] + found[name]) for name in sorted(classes))


def answer_accuracy(references: References, said: Sequence[str]) -> float:
    """The share of answers that are the reference, upper case and spaces apart."""
    return _best(references, said, lambda one, other: float(_words(one) == _words(other)))


def _words(text: str) -> list[str]:
    return text.lower().split()


_VQA_PUNCTUATION = ";:/'[]\"()=+\\_><@`,?"
_VQA_NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)
_VQA_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(_VQA_NUMBERS)}
_ARTICLES = {"a", "an", "the"}
_ENOUGH = 3  # people with the same answer


def vqa_accuracy(references: References, said: Sequence[str]) -> float:
    """The mean of min(people with this answer / 3, 1), for every nine of ten people.

    Answers are normalised on both sides as by the official script: case, punctuation, articles,
    numbers as digits. Its list of contractions is left out: it comes after their apostrophes have
    gone from both sides, so that it makes nothing equal.
    """
    return fmean(map(_agreement, references, said))


def _agreement(references: tuple[str, ...], answer: str) -> float:
    right = normal_answer(answer)
    same = [normal_answer(reference) == right for reference in references]
    total = sum(same)
    return fmean(min((total - own) / _ENOUGH, 1.0) for own in same)


def normal_answer(text: str) -> str:
    """An answer as VQA compares it.

    >>> normal_answer("The two-story house.")
    'two-story house'
    """
    text = " ".join(text.split())
    has_thousands = re.search(r"\d,\d", text) is not None
    bare = text
    for mark in _VQA_PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside or has_thousands else " ")
    words = (_VQA_WORDS.get(word, word) for word in re.sub(r"\.(?!\d)", "", bare).lower().split())
    return " ".join(word for word in words if word not in _ARTICLES)
