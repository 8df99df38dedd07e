"""CLUE's Winograd task as one text, in which the noun and the pronoun are marked.

Source: CLUE's own baseline, github.com/CLUEbenchmark/CLUE, whose marks these are: _noun_ and
[pronoun].
"""

from collections.abc import Mapping


def marked_spans(fields: Mapping[str, object]) -> Mapping[str, object]:
    """`fields` with both spans of `target` marked in `text`.

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
    return {**fields, "text": text}
