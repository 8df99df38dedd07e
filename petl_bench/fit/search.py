"""The border between what fits and what does not, with few simulations."""

from collections.abc import Callable

from petl_bench.fit.streams import Streams

_GUESSES = 6  # simulations; if the border is not found by then, every other one halves the bracket


def border(streams: Streams, capacity_bytes: int, first: int, last: int, start: int) -> int:
    """The place that fits into `capacity_bytes` while the next one does not.

    `first - 1` if nothing fits, `last` if everything does. What it says of either place is
    simulated, or computed and as good as that (see `streams`). Fragments make fitting not quite
    monotonic; a larger place that fits again is not looked for.
    """

    def fits(place: int) -> bool | None:
        trial = streams.trial(place, capacity_bytes)
        return None if trial is None else trial.refusal is None

    if not streams.simulated:
        streams.simulate(start)
    tried = 0
    while True:
        known = sorted(place for place in streams.simulated if first <= place <= last)
        low = max((place for place in known if fits(place)), default=first - 1)
        high = min((place for place in known if place > low and not fits(place)), default=last + 1)
        if high == low + 1:
            return low
        tried += 1
        halve = tried > _GUESSES and tried % 2 == 0
        place = None if halve else _foretold(fits, low, high, streams.guess(capacity_bytes))
        if place is None:
            place = (low + high) // 2
        elif place == low:
            if low >= first and streams.is_certain(low + 1):
                return low
            place = low + 1
        streams.simulate(place)


def _foretold(
    fits: Callable[[int], bool | None], low: int, high: int, guess: int | None
) -> int | None:
    """The border within the bracket, by what is computed; None if nothing can be."""
    place = min(max(low if guess is None else guess, low + 1), high - 1)
    if fits(place) is None:
        return None
    step = 1
    if fits(place):
        low = place
        while low + step < high and fits(low + step):
            low += step
            step *= 2
        high = min(high, low + step)
    else:
        high = place
        while high - step > low and not fits(high - step):
            high -= step
            step *= 2
        low = max(low, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
