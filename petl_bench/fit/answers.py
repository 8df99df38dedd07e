"""What `petl-bench fit` found, as values."""

from collections.abc import Iterator

from petl_bench.case import Case, Frozen
from petl_bench.explanation import LiveTensor
from petl_bench.fit.axis import Vary
from petl_bench.record import Environment, Phase

_SKIPPED = "skipped: "


class Held(Frozen):
    """What fits."""

    place: str  # the batch, the length in tokens, or the backbone's name
    peak_allocated_bytes: int
    peak_reserved_bytes: int  # what the allocator held at most; never more than the capacity
    margin_bytes: int  # what it never asked for
    simulated: bool  # else computed, from simulations that obey one law to the byte


class Overflow(Frozen):
    """What one more does not fit for: the first request that is refused."""

    place: str
    phase: Phase
    tensor: LiveTensor  # its bytes are those requested
    allocated_bytes: int  # by then
    reserved_bytes: int  # likewise
    simulated: bool  # as in `Held`


class Answer(Frozen):
    """The most that fits of one method into one memory."""

    label: str
    memory_bytes: int  # the card's
    capacity_bytes: int  # what it has for tensors
    largest: Held | None  # None: not even the smallest fits
    overflow: Overflow | None  # None: everything that was asked for fits


class CurvePoint(Frozen):
    """The memory of one simulated place, on a device without a limit."""

    place: str
    position: int  # along the axis: the batch, the length, or the backbone's number by size
    peak_allocated_bytes: int
    peak_reserved_bytes: int


class Curve(Frozen):
    """What was simulated of one method, and what was found."""

    case: Case  # the one asked for; the axis is what varies of it
    label: str
    answers: tuple[Answer, ...] = ()  # in the order of the memories
    points: tuple[CurvePoint, ...] = ()  # along the axis
    reason: str | None = None  # why there are none, behind "skipped: " or "error: "

    @property
    def skipped(self) -> str | None:
        """Why the method does not go with its backbone or workload."""
        reason = self.reason or ""
        return reason.removeprefix(_SKIPPED) if reason.startswith(_SKIPPED) else None

    @property
    def failed(self) -> bool:
        """Whether it came to an error."""
        return self.reason is not None and self.skipped is None


class Frontier(Frozen):
    """All that `petl-bench fit` found."""

    vary: Vary
    environment: Environment
    context_bytes: int  # taken off every memory
    memory_bytes: tuple[int, ...]
    places: tuple[str, ...] = ()  # of a finite axis: the backbones by size
    curves: tuple[Curve, ...]

    @property
    def answers(self) -> Iterator[Answer]:
        """Every method's, method by method."""
        for curve in self.curves:
            yield from curve.answers
