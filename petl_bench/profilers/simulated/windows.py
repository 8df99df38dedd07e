"""The windows of a ledger in the order in which they are replayed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from petl_bench.case import Workload
from petl_bench.profilers.simulated.ledger import Window
from petl_bench.record import Category


class Recorded(Protocol):
    """What a replay reads of a ledger; its own docstring says what each is."""

    @property
    def events(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def sizes(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def categories(self) -> Sequence[Category]: ...  # noqa: D102
    @property
    def operators(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def streams(self) -> Mapping[int, int]: ...  # noqa: D102
    @property
    def windows(self) -> Sequence[Window]: ...  # noqa: D102


class Replay(NamedTuple):
    """Loading, the warm-up, and the one step that every measured step repeats."""

    load: Window
    warm_up: tuple[Window, ...]
    steady: tuple[Window, ...]
    # What the step frees of the step before, by what it leaves to be freed in the next one.
    carried: Mapping[int, int]

    def renames_after(self, window: Window) -> Mapping[int, int]:
        """What goes by another index from the end of `window` on, so that the step can repeat."""
        return self.carried if window == self.steady[-1] else {}


def split(ledger: Recorded, workload: Workload) -> Replay:
    """What to replay of a ledger that saw the warm-up steps of `workload` and one more.

    Raises:
        RuntimeError: that step does not leave things as it found them, and cannot be repeated.
    """
    load, *steps = contiguous(ledger.windows)
    warm_up = tuple(window for window in steps if window.step < workload.unsteady_steps)
    steady = tuple(window for window in steps if window.step == workload.unsteady_steps)
    return Replay(load, warm_up, steady, _carried(ledger, steady))


def contiguous(windows: Sequence[Window]) -> list[Window]:
    """The windows, each stretched back to where the one before it ended.

    Between two phases only Python runs, but what it frees must not fall out of the account.
    """
    starts = [0, *(window.stop for window in windows[:-1])]
    return [
        Window(window.step, window.phase, start, window.stop)
        for window, start in zip(windows, starts, strict=True)
    ]


def _carried(ledger: Recorded, steady: tuple[Window, ...]) -> dict[int, int]:
    """What a step leaves behind, with that of the step before in whose place it comes.

    Code that keeps a result until it has the next one (the last loss, say) frees the old one in
    every step. A step that leaves or frees anything else cannot be replayed.
    """
    open_storages: dict[int, None] = {}
    freed = defaultdict[tuple[str, int, Category], list[int]](list)

    def kind(index: int) -> tuple[str, int, Category]:
        return ledger.operators[index], ledger.sizes[index], ledger.categories[index]

    for event in ledger.events[steady[0].start : steady[-1].stop]:
        if event >= 0:
            open_storages[event] = None
        elif ~event in open_storages:
            del open_storages[~event]
        else:
            freed[kind(~event)].append(~event)
    carried, left = dict[int, int](), set[str]()
    for index in open_storages:
        older = freed[kind(index)]
        if older:
            carried[index] = older.pop(0)
        else:
            left.add(ledger.operators[index])
    if left:
        named = ", ".join(sorted(left))
        raise RuntimeError(f"the steady step leaves results behind of: {named}")
    for (operator, _, _), others in freed.items():
        if others:
            raise RuntimeError(f"the steady step frees {operator}'s result, not its own")
    return carried
