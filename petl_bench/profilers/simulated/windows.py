"""The windows of a ledger in the order in which they are replayed."""

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


def split(ledger: Recorded, workload: Workload) -> Replay:
    """What to replay of a ledger that saw the warm-up steps of `workload` and one more.

    Raises:
        RuntimeError: that step does not leave things as it found them, and cannot be repeated.
    """
    load, *steps = contiguous(ledger.windows)
    warm_up = tuple(window for window in steps if window.step < workload.unsteady_steps)
    steady = tuple(window for window in steps if window.step == workload.unsteady_steps)
    _check_repeatable(ledger, steady)
    return Replay(load, warm_up, steady)


def contiguous(windows: Sequence[Window]) -> list[Window]:
    """The windows, each stretched back to where the one before it ended.

    Between two phases only Python runs, but what it frees must not fall out of the account.
    """
    starts = [0, *(window.stop for window in windows[:-1])]
    return [
        Window(window.step, window.phase, start, window.stop)
        for window, start in zip(windows, starts, strict=True)
    ]


def _check_repeatable(ledger: Recorded, steady: tuple[Window, ...]) -> None:
    """A step that leaves something behind, or frees what it did not make, cannot be replayed."""
    open_storages: set[int] = set()
    for event in ledger.events[steady[0].start : steady[-1].stop]:
        if event >= 0:
            open_storages.add(event)
        elif ~event not in open_storages:
            raise RuntimeError(
                f"the steady step frees {ledger.operators[~event]}'s result, not its own"
            )
        else:
            open_storages.remove(~event)
    if open_storages:
        left = ", ".join(sorted({ledger.operators[index] for index in open_storages}))
        raise RuntimeError(f"the steady step leaves results behind of: {left}")
