"""Rows of CLUE's that are not texts and a label yet, made so."""

import re
from collections.abc import Iterable, Iterator, Mapping

Fields = Mapping[str, object]

_BLANK = re.compile(r"#idiom\d+#")
_HERE, _ELSEWHERE = "____", "……"  # the blank that is asked for, and others of the same text
_AROUND = 26  # characters kept on each side of a blank: with an idiom, 64 tokens of one each


def marked_spans(fields: Fields) -> Iterable[Fields]:
    """CLUE's Winograd task as one text, in which both spans of `target` are marked.

    The marks are those of CLUE's own baseline, github.com/CLUEbenchmark/CLUE: _noun_ and [pronoun].

    Raises:
        ValueError: a span is missing, or is not where its index says.
    """
    text, target = fields.get("text"), fields.get("target")
    if not isinstance(text, str) or not isinstance(target, Mapping):
        raise ValueError("needs a text, and a target with span1 and span2 in it")  # noqa: TRY004
    marks = []
    for span, before, after in (("span1", "_", "_"), ("span2", "[", "]")):
        words, start = target.get(f"{span}_text"), target.get(f"{span}_index")
        if not isinstance(words, str) or not isinstance(start, int):
            raise ValueError(f"target has no {span}_text with its {span}_index")  # noqa: TRY004
        end = start + len(words)
        if start < 0 or text[start:end] != words:
            raise ValueError(f"{span}_text {words!r} is not at {span}_index {start} of the text")
        marks += [(start, 1, before), (end, 0, after)]
    for place, _, mark in sorted(marks, reverse=True):  # from the end, so that places stay
        text = text[:place] + mark + text[place:]
    return [{**fields, "text": text}]


def conversation(fields: Fields) -> Iterable[Fields]:
    """C3 (Sun et al. 2020, arXiv:1904.09679): turns as one context, the answer as its number.

    Raises:
        ValueError: the choices or the answer are missing, or it is none of them.
    """
    context, choices = fields.get("context"), _texts("choice", fields)
    if isinstance(context, list):
        context = "\n".join(_texts("context", fields))
    answer = fields.get("answer")
    if answer not in choices:
        raise ValueError(f"answer {str(answer)[:60]!r} is not one of its {len(choices)} choices")
    return [{**fields, "context": context, "label": choices.index(str(answer))}]


def blanks(fields: Fields) -> Iterator[Fields]:
    """ChID (Zheng et al. 2019, arXiv:1906.01265): an example a blank, with the text around it.

    Raises:
        ValueError: there are more answers than blanks or fewer, or an answer is no candidate.
    """
    candidates, contents = _texts("candidates", fields), _texts("content", fields)
    answers = fields.get("answers")
    numbers = answers.get("candidate_id") if isinstance(answers, Mapping) else None
    if not isinstance(numbers, list):
        raise ValueError("answers has no list candidate_id")  # noqa: TRY004
    found = [(text, blank) for text in contents for blank in _BLANK.finditer(text)]
    if not found or len(found) != len(numbers):
        raise ValueError(f"{len(numbers)} answers to {len(found)} blanks")
    for (text, blank), number in zip(found, numbers, strict=True):
        if type(number) is not int or not 0 <= number < len(candidates):
            raise ValueError(f"candidate_id {number!r} is not one of {len(candidates)} candidates")
        before = _BLANK.sub(_ELSEWHERE, text[: blank.start()])[-_AROUND:]
        after = _BLANK.sub(_ELSEWHERE, text[blank.end() :])[:_AROUND]
        yield {"content": before + _HERE + after, "candidates": candidates, "label": number}


def _texts(name: str, fields: Fields) -> list[str]:
    found = fields.get(name)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{name} is {str(found)[:60]}, not a list of texts")
    return found
