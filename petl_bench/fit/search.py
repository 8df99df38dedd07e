"""The border between what fits and what does not, with few simulations."""

from collections.abc import Callable

from petl_bench.fit.streams import Streams

_GUESSES = 6  # simulations; if the border is not found by then, every other one halves the bracket
_LONGEST_SCAN = 200  # places; beyond, steps are doubled


def border(streams: Streams, capacity_bytes: int, first: int, last: int, start: int) -> int:
    """The place that fits into `capacity_bytes` while the next one does not.

    `first - 1` if nothing fits, `last` if everything does. What it says of either place is
    simulated, or computed and as good as that (see `streams`). Fragments make fitting not quite
    monotonic, so there may be several such places: taken is the lowest one, up to which, by what
    is computed, everything fits.
    """

    def fits(place: int) -> bool | None:
        trial = streams.trial(place, capacity_bytes)
        return None if trial is None else trial.refusal is None

    if not streams.simulated:
        streams.simulate(start)
    for tried in range(last - first + 2):
        halve = tried >= _GUESSES and tried % 2
        place = None if halve else _foretold(streams, fits, capacity_bytes, first, last)
        if place is None:
            known = sorted(place for place in streams.simulated if first <= place <= last)
            high = min((place for place in known if not fits(place)), default=last + 1)
            low = max((place for place in known if place < high), default=first - 1)
            if high == low + 1:
                return low
            streams.simulate((low + high) // 2)
        elif place >= first and place not in streams.simulated:
            streams.simulate(place)
        elif place < last and not streams.is_certain(place + 1):
            streams.simulate(place + 1)
        else:
            return place
    raise AssertionError("every place is simulated, and no border is found")


def _foretold(
    streams: Streams,
    fits: Callable[[int], bool | None],
    capacity_bytes: int,
    first: int,
    last: int,
) -> int | None:
    """The border by what is known and computed; None if nothing can be computed."""

    def fits_uncut(place: int) -> bool | None:
        """Whether it fits without giving cached memory back, which is monotonic, nearly."""
        trial = streams.trial(place, None)
        return None if trial is None else trial.peak_reserved_bytes <= capacity_bytes

    guess = streams.guess(capacity_bytes)
    near = min(max(first if guess is None else guess, first), last)
    if fits_uncut(near) is None:
        return None
    place = _last_of(fits_uncut, near, first, last)
    for _ in range(_LONGEST_SCAN):
        if place == last or not fits(place + 1):
            return place
        place += 1
    return _last_of(fits, place, first, last)


def _last_of(holds: Callable[[int], bool | None], near: int, first: int, last: int) -> int:
    """The last place from `first` on for which `holds`, as if monotonic; looked for around `near`.

    `first - 1` if there is none.
    """
    low, high, step = first - 1, last + 1, 1
    if holds(near):
        low = near
        while low + step < high and holds(low + step):
            low += step
            step *= 2
        high = min(high, low + step)
    else:
        high = near
        while high - step > low and not holds(high - step):
            high -= step
            step *= 2
        low = max(low, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
