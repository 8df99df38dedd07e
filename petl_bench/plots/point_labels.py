"""Names of points: each nearer to its own than to any other, or tied to it by a thin line.

A name covers no point and no other name where there is room, and lines as little as can be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from petl_bench.plots.drawing import FADED, INK
from petl_bench.series import Point

Side = Literal["left", "center", "right"]
_Boxes = npt.NDArray[np.float64]  # left, bottom, right, top in pixels, [..., 4]


class _Offset(NamedTuple):
    """Where a label could stand, in points from what it names."""

    side: Side  # of the label, that is at the offset
    across: float
    up: float
    tied: bool  # by a line, as it is far off


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
    # Between these, where many points stand close.
    ("left", 1.0, 0.5),
    ("left", 1.0, -0.5),
    ("right", -1.0, 0.5),
    ("right", -1.0, -0.5),
)
_NEAR, _FAR = (7.0, 10.0), (17.0, 22.0, 29.0, 37.0, 46.0, 56.0, 68.0, 82.0)
_OFFSETS = [
    _Offset(side, across * reach, up * reach, reach in _FAR)
    for reach in (*_NEAR, *_FAR)
    for side, across, up in _DIRECTIONS
]
_PIECES = 24  # of a sloped line
_LEADER_SHARES = [step / 16 for step in range(1, 16)]  # of its length
_LEADER = {"arrowstyle": "-", "color": FADED, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
# Of a name: no line strikes it through.
_GROUND = {"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
_POINT_PIXELS = 6.0  # from a point's middle, that belong to it
_NEARER = 0.8  # a label's way to its own point, of that to any other, or it is taken for that one's
_ROUNDS = 4  # of moving every label to a better place, once the others stand

# Costs: of a square pixel covered, of a leader, and of being taken for another point's name.
_COVERED, _CROSSED, _OUTSIDE, _TIED, _MISTAKEN = 100.0, 0.5, 200.0, 12.0, 10_000.0


@dataclass
class _Label:
    """A name to place: all places that it could have, and the one it has."""

    text: Annotation
    rooms: _Boxes  # [offsets, 4]
    leaders: _Boxes  # [offsets, pieces, 4]; of no size where there is none
    own_cost: npt.NDArray[np.float64]  # [offsets]: all that hangs on no other label
    best: int = field(default=-1)  # not placed yet

    @property
    def taken(self) -> _Boxes:
        """The room of the label and its leader."""
        room = self.rooms[self.best][None]
        tied = _OFFSETS[self.best].tied
        return np.concatenate([room, self.leaders[self.best]]) if tied else room


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
    lines = [_around(axes, ends, 1.5) for ends in pairwise(corners)]
    lines += [box for line in slopes for ends in pairwise(line) for box in _along(axes, ends)]
    places = axes.transData.transform([(x, y) for x, y, _ in found])
    line_boxes = _extents(lines)
    labels = [_label(axes, found, places, index, line_boxes) for index in range(len(found))]
    _settle(labels, _orders(found))
    for label in labels:
        offset = _OFFSETS[label.best]
        label.text.set(ha=offset.side, position=(offset.across, offset.up))
        assert label.text.arrow_patch is not None
        label.text.arrow_patch.set_visible(offset.tied)


def _orders(found: Sequence[tuple[float, float, Point]]) -> list[list[int]]:
    """Orders to place labels in: the best points first; then as one may read the page."""
    keys: list[Callable[[int], tuple[float, ...]]] = [
        lambda at: (not found[at][2].best, -found[at][1], found[at][0]),
        lambda at: (found[at][0],),
        lambda at: (-found[at][0],),
        lambda at: (found[at][1],),
        lambda at: (-found[at][1],),
    ]
    return [sorted(range(len(found)), key=key) for key in keys]


def _settle(labels: Sequence[_Label], orders: Sequence[Sequence[int]]) -> None:
    """Place all labels: in the first order that leaves none over another, or else the cheapest."""
    tried: list[tuple[float, list[int]]] = []
    for order in orders:
        for label in labels:
            label.best = -1
        for _ in range(_ROUNDS):
            before = [label.best for label in labels]
            for index in order:
                costs = labels[index].own_cost + _COVERED * _covered(labels, index)
                labels[index].best = int(np.argmin(costs))
            if [label.best for label in labels] == before:
                break
        covered = sum(
            float(_covered(labels, index)[label.best]) for index, label in enumerate(labels)
        )
        own = sum(float(label.own_cost[label.best]) for label in labels)
        tried.append((own + _COVERED * covered, [label.best for label in labels]))
        if not covered:
            return
    for label, best in zip(labels, min(tried)[1], strict=True):
        label.best = best


def _covered(labels: Sequence[_Label], index: int) -> npt.NDArray[np.float64]:
    """What label `index` would cover of the others that are placed, in square pixels: [offsets]."""
    others = [each.taken for at, each in enumerate(labels) if at != index and each.best >= 0]
    names = np.concatenate(others) if others else _extents([])
    label = labels[index]
    return np.asarray(_shared(label.rooms, names) + _shared(label.leaders, names).sum(axis=1))


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


def _extents(boxes: Sequence[Bbox]) -> _Boxes:
    return np.array([box.extents for box in boxes]).reshape(-1, 4)


def _label(
    axes: Axes,
    found: Sequence[tuple[float, float, Point]],
    places: npt.NDArray[np.float64],
    index: int,
    lines: _Boxes,
) -> _Label:
    """The name of point `index` of `found`, whose `places` on the page are pixels, [points, 2]."""
    x, y, point = found[index]
    text = axes.annotate(
        point.label,
        (x, y),
        xytext=(0, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        color=INK if point.best else FADED,
        weight="bold" if point.best else "normal",
        zorder=4,
        arrowprops=_LEADER,
        bbox=_GROUND,
    )
    size = Text.get_window_extent(text)  # Annotation's own would count the leader line as well
    pixels_per_point = axes.figure.dpi / 72
    own = places[index]
    rooms, leaders = [], []
    for offset in _OFFSETS:
        middle = own + np.array([offset.across, offset.up]) * pixels_per_point
        left = middle[0] - _SIDES[offset.side] * size.width
        room = Bbox.from_bounds(left, middle[1] - size.height / 2, size.width, size.height)
        rooms.append(room.padded(1.5))
        ends = [own + (_edge(own, room) - own) * share for share in _LEADER_SHARES]
        margin = 1.5 if offset.tied else 0.0
        leaders.append([Bbox([end, end]).padded(margin) for end in ends])
    boxes = _extents(rooms)
    strings = np.array([[box.extents for box in each] for each in leaders])
    foreign = np.delete(places, index, axis=0)
    points = _extents([Bbox([at, at]).padded(_POINT_PIXELS) for at in places])
    others = _extents([Bbox([at, at]).padded(_POINT_PIXELS) for at in foreign])
    tied = np.array([offset.tied for offset in _OFFSETS])
    inside = _shared(boxes, np.array([axes.bbox.extents]))
    whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    reach = np.array([abs(offset.across) + abs(offset.up) for offset in _OFFSETS])
    return _Label(
        text=text,
        rooms=boxes,
        leaders=strings,
        own_cost=reach
        + _COVERED * (_shared(boxes, points) + _shared(strings, others).sum(axis=1))
        + _CROSSED * _shared(boxes, lines)
        + _OUTSIDE * (whole - inside)
        + np.where(tied, _TIED, _MISTAKEN * _mistaken(boxes, own, foreign)),
    )


def _edge(own: npt.NDArray[np.float64], room: Bbox) -> npt.NDArray[np.float64]:
    """Where the line from a point to the middle of a name's room enters it."""
    middle = np.array([(room.x0 + room.x1) / 2, (room.y0 + room.y1) / 2])
    span = np.abs(own - middle)
    half = np.array([room.width, room.height]) / 2
    share = min(
        (h / s for h, s in zip(half, span, strict=True) if s > 0),
        default=0.0,
    )
    return np.asarray(middle + (own - middle) * min(share, 1.0))


def _mistaken(
    rooms: _Boxes, own: npt.NDArray[np.float64], foreign: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Which of `rooms` are so near to a foreign point that it may be taken for its name."""
    if not len(foreign):
        return np.zeros(len(rooms), dtype=bool)
    mine = _distances(rooms, own[None])[:, 0]
    return np.asarray(mine >= _NEARER * _distances(rooms, foreign).min(axis=1))


def _distances(rooms: _Boxes, places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Pixels from each of `rooms` [n, 4] to each of `places` [m, 2]: [n, m]."""
    low, high = rooms[:, None, :2], rooms[:, None, 2:]
    beyond = np.maximum(np.maximum(low - places, places - high), 0.0)
    return np.asarray(np.hypot(beyond[..., 0], beyond[..., 1]))


def _shared(rooms: _Boxes, others: _Boxes) -> npt.NDArray[np.float64]:
    """Square pixels that each of `rooms` [..., 4] shares with all of `others` [m, 4]: [...]."""
    each = rooms[..., None, :]
    across = np.minimum(each[..., 2], others[:, 2]) - np.maximum(each[..., 0], others[:, 0])
    up = np.minimum(each[..., 3], others[:, 3]) - np.maximum(each[..., 1], others[:, 1])
    return np.asarray(np.sum(np.maximum(across, 0.0) * np.maximum(up, 0.0), axis=-1))
