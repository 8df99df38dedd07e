"""CIDEr-D: how much a caption says of what people say of an image, rare words counting more.

CIDEr-D = 10 / (N m) sum_n sum_j exp(-(l - l_j)^2 / 2 sigma^2) min(g_n, g_nj) . g_nj / |g_n| |g_nj|
g_n: counts of a caption's n-grams, n = 1 to N = 4, times log(images / images with that n-gram);
j: an image's m references; l: words; sigma = 6. Reports give it times 100.
Source: Vedantam, Zitnick & Parikh 2015, arXiv:1411.5726, sections 3 and 6. The usual implementation
(pycocoevalcap) needs Java for its tokens; here they are runs of letters, digits and apostrophes.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

_LONGEST = 4
_SIGMA = 6.0
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

Ngram = tuple[str, ...]
Vector = dict[Ngram, float]


def cider_d(references: Sequence[tuple[str, ...]], said: Sequence[str]) -> float:
    """The mean over images; 0 where there is one image alone, whose words are not rare."""
    words = [[_words(text) for text in of_image] for of_image in references]
    seen: Counter[Ngram] = Counter()
    for of_image in words:
        seen.update({ngram for each in of_image for ngram in _ngrams(each)})
    weight = {ngram: math.log(len(words) / count) for ngram, count in seen.items()}
    unseen = math.log(len(words))  # as if one image had it
    return fmean(
        fmean(_similarity(_words(text), each, weight, unseen) for each in of_image)
        for of_image, text in zip(words, said, strict=True)
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _ngrams(words: Sequence[str]) -> Iterable[Ngram]:
    for size in range(1, _LONGEST + 1):
        yield from zip(*(words[start:] for start in range(size)), strict=False)


def _similarity(
    one: Sequence[str], other: Sequence[str], weight: dict[Ngram, float], unseen: float
) -> float:
    ours, theirs = (_vectors(each, weight, unseen) for each in (one, other))
    total = fmean(map(_cosine, ours, theirs))
    return 10 * total * math.exp(-((len(one) - len(other)) ** 2) / (2 * _SIGMA**2))


def _vectors(words: Sequence[str], weight: dict[Ngram, float], unseen: float) -> list[Vector]:
    found: list[Vector] = [{} for _ in range(_LONGEST)]
    for ngram, count in Counter(_ngrams(words)).items():
        found[len(ngram) - 1][ngram] = count * weight.get(ngram, unseen)
    return found


def _cosine(ours: Vector, theirs: Vector) -> float:
    """Of what is said no more often than in the reference."""
    norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
    common = sum(min(ours[ngram], theirs[ngram]) * theirs[ngram] for ngram in ours.keys() & theirs)
    return common / norms if norms else 0.0
