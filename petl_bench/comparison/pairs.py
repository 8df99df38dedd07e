"""Which result belongs beside which."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from petl_bench.comparison.subjects import Subject


@dataclass(frozen=True)
class Pair:
    """Two results of one question; either side may lack."""

    base: Subject | None
    new: Subject | None
    apart: str | None = None  # what makes the two incomparable, in a sentence

    @property
    def either(self) -> Subject:
        """The new side, or else the base."""
        side = self.new or self.base
        assert side is not None
        return side


def pair_up(base: Iterable[Subject], new: Iterable[Subject]) -> list[Pair]:
    """Every result of `base` and `new` once, beside the other side's of its case.

    Comparable are results of one origin, device, era, allocator setting and protocol. Versions
    of libraries may differ: what they change is what a comparison is for. Of several results of
    one case and place the last one counts.
    """
    before, after = _by_place(base), _by_place(new)
    pairs: list[Pair] = []
    for case_id in dict.fromkeys([*before, *after]):
        pairs += _pairs_of_case(before.get(case_id, {}), after.get(case_id, {}))
    return pairs


Place = tuple[str, ...]


def _by_place(subjects: Iterable[Subject]) -> dict[str, dict[Place, Subject]]:
    found: dict[str, dict[Place, Subject]] = {}
    for subject in subjects:
        found.setdefault(subject.case_id, {})[tuple(_place(subject).values())] = subject
    return found


def _place(subject: Subject) -> dict[str, str]:
    """What must be the same on both sides."""
    return {
        "origin": subject.origin.value,
        "device": subject.environment.place,
        "allocator settings": subject.environment.allocator_settings or "default",
        "protocol version": str(subject.protocol_version),
    }


def _pairs_of_case(before: dict[Place, Subject], after: dict[Place, Subject]) -> Iterator[Pair]:
    for place, subject in before.items():
        if place in after:
            yield Pair(subject, after[place])
        elif elsewhere := [other for there, other in after.items() if there not in before]:
            yield Pair(subject, elsewhere[0], _apart(subject, elsewhere[0]))
        else:
            yield Pair(subject, None)
    for place, subject in after.items():
        # One that stands beside an incomparable base is told there.
        if place not in before and not any(there not in after for there in before):
            yield Pair(None, subject)


def _apart(base: Subject, new: Subject) -> str:
    sides = zip(_place(base).items(), _place(new).values(), strict=True)
    return ", ".join(f"{name}: {was} before, {now} now" for (name, was), now in sides if was != now)
