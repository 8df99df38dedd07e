"""Names beside points, each where it covers no point, no line and no other name."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from petl_bench.plots.drawing import FADED, INK
from petl_bench.series import Point

Side = Literal["left", "center", "right"]


class _Offset(NamedTuple):
    """Where a label could stand, in points from what it names."""

    side: Side  # of the label, that is at the offset
    across: float
    up: float


_SIDES: dict[Side, float] = {"left": 0.0, "center": 0.5, "right": 1.0}
_DIRECTIONS: tuple[tuple[Side, float, float], ...] = (
    ("left", 1.0, 0.0),
    ("right", -1.0, 0.0),
    ("center", 0.0, 1.5),
    ("center", 0.0, -1.5),
    ("left", 0.8, 1.0),
    ("left", 0.8, -1.0),
    ("right", -0.8, 1.0),
    ("right", -0.8, -1.0),
)
_PIECES = 24  # of a sloped line
_LEADER_POINTS = 14.0  # a label farther off than this is tied to its point by a line
_LEADER_SHARES = [step / 12 for step in range(4, 12)]  # of its length: beyond the point itself
_OFFSETS = [
    _Offset(side, across * reach, up * reach)
    for reach in (7.0, 11.0, 16.0, 22.0, 29.0, 37.0, 46.0, 56.0, 68.0)
    for side, across, up in _DIRECTIONS
]


def label_points(
    figure: Figure,
    axes: Axes,
    found: Sequence[tuple[float, float, Point]],
    corners: Sequence[tuple[float, float]],
    slopes: Sequence[Sequence[tuple[float, float]]] = (),
) -> None:
    """Name every point beside it, where the name covers no point, no line and no other name.

    `corners` are those of a line with right angles; `slopes` are lines of any kind.
    """
    figure.draw_without_rendering()  # lays out, so that places on the page are known
    figure.set_layout_engine("none")
    taken = [*(_around(axes, [(x, y)], 6.0) for x, y, _ in found)]
    taken += [_around(axes, ends, 1.5) for ends in pairwise(corners)]
    taken += [box for line in slopes for ends in pairwise(line) for box in _along(axes, ends)]
    for x, y, point in sorted(found, key=lambda each: (not each[2].best, -each[1], each[0])):
        taken += _place_label(axes, (x, y), point, taken)


def _around(axes: Axes, places: Sequence[tuple[float, float]], margin: float) -> Bbox:
    """The room in pixels that one place, or a line between two, takes on the page."""
    return (
        Bbox.null()
        .union([Bbox([at, at]) for at in axes.transData.transform(places)])
        .padded(margin)
    )


def _along(axes: Axes, ends: Sequence[tuple[float, float]]) -> list[Bbox]:
    """The room in pixels of a straight line, as boxes small enough to follow its slope."""
    first, last = axes.transData.transform(ends)
    steps = [first + (last - first) * step / _PIECES for step in range(_PIECES + 1)]
    return [
        Bbox.null().union([Bbox([at, at]) for at in pair]).padded(2) for pair in pairwise(steps)
    ]


def _place_label(
    axes: Axes, place: tuple[float, float], point: Point, taken: Sequence[Bbox]
) -> list[Bbox]:
    """Write the label at the cheapest of the offsets tried.

    Returns the room that it takes, and that of the line that ties it to its point.
    """
    label = axes.annotate(
        point.label,
        place,
        xytext=(0, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        color=INK if point.best else FADED,
        weight="bold" if point.best else "normal",
        zorder=4,
        arrowprops={"arrowstyle": "-", "color": "#A9B2BD", "linewidth": 0.7, "shrinkB": 3},
    )
    size = Text.get_window_extent(label)  # Annotation's own would count the leader line as well
    pixels_per_point = axes.figure.dpi / 72
    across, up = axes.transData.transform(place)

    def room(offset: _Offset) -> Bbox:
        left = across + offset.across * pixels_per_point - _SIDES[offset.side] * size.width
        bottom = up + offset.up * pixels_per_point - size.height / 2
        return Bbox.from_bounds(left, bottom, size.width, size.height).padded(1.5)

    def leader(offset: _Offset) -> list[Bbox]:
        if max(abs(offset.across), abs(offset.up)) <= _LEADER_POINTS:
            return []
        span = np.array([offset.across, offset.up]) * pixels_per_point
        ends = [np.array([across, up]) + span * share for share in _LEADER_SHARES]
        return [Bbox([end, end]).padded(1.5) for end in ends]

    extents = np.array([box.extents for box in taken])

    def cost(offset: _Offset) -> float:
        """What is covered, in square pixels, then how far the label is from its point."""
        box = room(offset)
        covered = sum(_shared(each, extents) for each in (box, *leader(offset)))
        outside = box.width * box.height - _shared(box, np.array(axes.bbox.extents))
        return 10 * covered + 50 * outside + abs(offset.across) + abs(offset.up)

    best = min(_OFFSETS, key=cost)
    label.set(ha=best.side, position=(best.across, best.up))
    assert label.arrow_patch is not None
    label.arrow_patch.set_visible(bool(leader(best)))
    return [room(best), *leader(best)]


def _shared(room: Bbox, others: npt.NDArray[np.float64]) -> float:
    """Square pixels that `room` shares with others: left, bottom, right and top, [..., 4]."""
    across = np.minimum(room.x1, others[..., 2]) - np.maximum(room.x0, others[..., 0])
    up = np.minimum(room.y1, others[..., 3]) - np.maximum(room.y0, others[..., 1])
    return float(np.sum(np.maximum(across, 0.0) * np.maximum(up, 0.0)))
