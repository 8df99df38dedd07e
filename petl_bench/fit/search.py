"""The border between what fits and what does not, with few simulations."""

from collections.abc import Callable

from petl_bench.fit.streams import Streams

_GUESSES = 6  # simulations; if the border is not found by then, every other one halves the bracket
_LONGEST_SCAN = 200  # places; farther off, the border is taken for the only one


def border(streams: Streams, capacity_bytes: int, first: int, last: int, start: int) -> int:
    """The place that fits into `capacity_bytes` while the next one does not.

    `first - 1` if nothing fits, `last` if everything does. What it says of either place is
    simulated, or computed and as good as that (see `streams`). Fragments make fitting not quite
    monotonic, so there may be several such places: taken is the lowest one, up to which, by what
    is computed, everything fits.
    """
    if not streams.simulated:
        streams.simulate(start)
    search = _Search(streams, capacity_bytes, first, last)
    for tried in range(last - first + 2):
        halve = tried >= _GUESSES and tried % 2
        place = None if halve else search.foretold()
        if place is None:
            low, high = search.bracket()
            if high == low + 1:
                return low
            streams.simulate((low + high) // 2)
        elif search.is_settled(place):
            return place
        elif place >= first and place not in streams.simulated:
            streams.simulate(place)
        else:
            streams.simulate(place + 1)
    raise AssertionError("every place is simulated, and no border is found")


class _Search:
    """What streams tell of one border."""

    def __init__(self, streams: Streams, capacity_bytes: int, first: int, last: int) -> None:
        self._streams = streams
        self._capacity_bytes = capacity_bytes
        self._first = first
        self._last = last

    def is_settled(self, place: int) -> bool:
        """Whether `place` and the next one are simulated, or as good as that."""
        held = place < self._first or place in self._streams.simulated
        return held and (place == self._last or self._streams.is_certain(place + 1))

    def bracket(self) -> tuple[int, int]:
        """The lowest simulated place that does not fit, behind the highest below it, which does."""
        known = [place for place in self._streams.simulated if self._first <= place <= self._last]
        high = min((place for place in known if not self._fits(place)), default=self._last + 1)
        return max((place for place in known if place < high), default=self._first - 1), high

    def foretold(self) -> int | None:
        """The border by what is known and computed; None if nothing can be computed."""
        guess = self._streams.guess(self._capacity_bytes)
        near = min(max(self._first if guess is None else guess, self._first), self._last)
        if self._fits_uncut(near) is None:
            return None
        uncut = self._last_of(self._fits_uncut, near)
        place = self._last_of(self._fits, max(uncut, self._first))
        if not self.is_settled(place):
            return place
        # It would be the answer: now a look at every place before it is worth its time.
        below = range(max(uncut, self._first), min(uncut + _LONGEST_SCAN, place))
        return next((near - 1 for near in below if not self._fits(near)), place)

    def _fits(self, place: int) -> bool | None:
        trial = self._streams.trial(place, self._capacity_bytes)
        return None if trial is None else trial.refusal is None

    def _fits_uncut(self, place: int) -> bool | None:
        """Whether it fits without giving cached memory back, which is monotonic, nearly."""
        trial = self._streams.trial(place, None)
        return None if trial is None else trial.peak_reserved_bytes <= self._capacity_bytes

    def _last_of(self, holds: Callable[[int], bool | None], near: int) -> int:
        """The last place for which `holds`, as if monotonic; looked for around `near`.

        One before the first if there is none.
        """
        low, high, step = self._first - 1, self._last + 1, 1
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
