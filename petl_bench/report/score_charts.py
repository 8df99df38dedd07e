"""Charts of scores, as plotly figures: against memory, parameters, and full fine-tuning.

Their numbers are those of `tasks.boards`. A trace's `meta` tells the page its colour.
"""

import math
from collections.abc import Mapping, Sequence

from petl_bench.palette import Look
from petl_bench.papers.scores import PublishedPoint
from petl_bench.report.chart import Chart, plain
from petl_bench.series import byte_axis
from petl_bench.tasks.boards import Axis, Board, Curve, Standing, curves, frontier
from petl_bench.units import format_bytes, format_count

Looks = Mapping[tuple[str, ...], Look]
FRONTIER = "Pareto frontier: nothing smaller scores as high"
_FROM_ZERO = 0.6  # where the smallest is less of the largest, the axis of memory starts at 0
_SYMBOLS = {"triangle": "triangle-up"}  # plotly's names, where they are others than ours
_DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot", "dashdot": "dashdot"}
_TITLES: dict[Axis, str] = {
    "simulated_bytes": "peak memory of a step, simulated",
    "measured_bytes": "peak memory of a step, measured",
    "trainable_parameters": "trainable parameters",
}


def legend(found: Board, shared: Looks) -> list[tuple[str, Look]]:
    """Name and look of every curve."""
    drawn = curves(found, "trainable_parameters")
    return [(curve.name, shared[curve.kind]) for curve in drawn]


def score_chart(found: Board, axis: Axis, shared: Looks) -> Chart | None:
    """Test score with its spread against a size; None where no method has it."""
    drawn = curves(found, axis)
    if not drawn:
        return None
    sizes = [spot.x for curve in drawn for spot in curve.spots]
    unit, x_axis = _x_axis(axis, sizes)
    low, high = _limits(
        [
            100 * (spot.score + sign * (spot.spread or 0.0))
            for c in drawn
            for spot in c.spots
            for sign in (-1, 1)
        ]
    )
    layout = _layout(x_axis, {"title": {"text": "test score (%)"}, "range": [low, high]})
    constant = 100 * found.constant
    if low < constant < high:
        layout["shapes"] = [_level(constant)]
    return {
        "data": [
            _frontier_trace(drawn, unit, x_axis["range"], logarithmic="type" in x_axis),
            *(
                _trace(
                    curve,
                    shared[curve.kind],
                    axis,
                    x=[spot.x / unit for spot in curve.spots],
                    y=[100 * spot.score for spot in curve.spots],
                )
                for curve in drawn
            ),
        ],
        "layout": layout,
    }


def relative_chart(
    found: Board, axis: Axis, published: Sequence[PublishedPoint], shared: Looks
) -> Chart | None:
    """Score and memory against full fine-tuning's, published points behind ours.

    None where full fine-tuning, or the size, is not there.
    """
    baseline = found.baseline
    whole = getattr(baseline, axis) if baseline else None
    drawn = curves(found, axis)
    if baseline is None or whole is None or not drawn:
        return None
    near = [point for point in published if not point.far]
    heights = [
        gain(spot.score, baseline) + sign * 100 * (spot.spread or 0.0)
        for curve in drawn
        for spot in curve.spots
        for sign in (-1, 1)
    ]
    shares = [100 * spot.x / whole for curve in drawn for spot in curve.spots]
    widest = max([*shares, *(point.memory_percent for point in near)])
    layout = _layout(
        {"title": {"text": "peak memory (% of full fine-tuning's)"}, "range": [0, 1.15 * widest]},
        {
            "title": {"text": "score over full fine-tuning's (points)"},
            "range": list(_limits([*heights, *(point.gain_points for point in near)])),
        },
    )
    layout["shapes"] = [_level(0.0)]
    return {
        "data": [
            _published_trace(near),
            *(
                _trace(
                    curve,
                    shared[curve.kind],
                    axis,
                    x=[100 * spot.x / whole for spot in curve.spots],
                    y=[gain(spot.score, baseline) for spot in curve.spots],
                )
                for curve in drawn
            ),
        ],
        "layout": layout,
    }


def gain(score: float, baseline: Standing) -> float:
    """Points of score over full fine-tuning's."""
    return 100 * (score - baseline.score)


def _trace(curve: Curve, look: Look, axis: Axis, *, x: list[float], y: list[float]) -> Chart:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(curve.name),
        "meta": f"series{look.number}",
        "x": x,
        "y": y,
        "error_y": {
            "array": [100 * (spot.spread or 0.0) for spot in curve.spots],
            "thickness": 1.2,
            "width": 4,
        },
        "customdata": [
            [
                plain(spot.short),
                plain(spot.label),
                f"{100 * spot.score:.1f} %"
                + ("" if spot.spread is None else f" \N{PLUS-MINUS SIGN} {100 * spot.spread:.1f}"),
                _in_words(axis, spot.x),
                spot.best,
            ]
            for spot in curve.spots
        ],
        "hovertemplate": "<b>%{customdata[1]}</b><br>%{customdata[2]}<br>%{customdata[3]}"
        "<extra></extra>",
        "line": {"width": 1.5, "dash": _DASHES[look.dash]},
        "marker": {"size": 10, "symbol": _SYMBOLS.get(look.shape, look.shape)},
    }


def _published_trace(found: Sequence[PublishedPoint]) -> Chart:
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": "published",
        "name": "published",
        "x": [point.memory_percent for point in found],
        "y": [point.gain_points for point in found],
        "customdata": [
            [
                plain(point.label),
                plain(point.scored),
                f"{point.gain_points:+.1f} points at {point.memory_percent:.0f} % of the memory",
            ]
            for point in found
        ],
        "hovertemplate": "<b>%{customdata[0]}</b>, published<br>%{customdata[1]}<br>"
        "%{customdata[2]}<extra></extra>",
        "marker": {"size": 10, "symbol": "circle-open", "line": {"width": 1.5}},
    }


def _frontier_trace(
    drawn: Sequence[Curve], unit: int, across: Sequence[float], *, logarithmic: bool
) -> Chart:
    """The staircase: from each spot to the right at its height, then up to the next."""
    corners: list[tuple[float, float]] = []
    for size, score in frontier(drawn):
        if corners:
            corners.append((size / unit, corners[-1][1]))
        corners.append((size / unit, 100 * score))
    end = 10 ** across[1] if logarithmic else across[1]
    corners.append((end, corners[-1][1]))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": FRONTIER,
        "meta": "frontier",
        "x": [x for x, _ in corners],
        "y": [y for _, y in corners],
        "line": {"width": 1.2, "dash": "dot"},
        "hoverinfo": "skip",
    }


def _x_axis(axis: Axis, sizes: Sequence[float]) -> tuple[int, Chart]:
    if axis == "trainable_parameters":
        return 1, {
            "title": {"text": _TITLES[axis]},
            "type": "log",
            "dtick": 1,
            "exponentformat": "SI",
            "range": [math.log10(min(sizes) / 2.5), math.log10(max(sizes) * 2.5)],
        }
    unit, unit_name = byte_axis(round(max(sizes)))
    low, high = _limits([size / unit for size in sizes])
    low = 0.0 if min(sizes) < _FROM_ZERO * max(sizes) else low
    return unit, {"title": {"text": f"{_TITLES[axis]} ({unit_name})"}, "range": [low, high]}


def _limits(places: Sequence[float]) -> tuple[float, float]:
    low, high = min(places), max(places)
    space = 0.15 * (high - low) or 1.0
    return low - space, high + space


def _layout(x_axis: Chart, y_axis: Chart) -> Chart:
    return {
        "height": 460,
        "hovermode": "closest",
        "margin": {"l": 56, "r": 20, "t": 8, "b": 48},
        "showlegend": False,
        "xaxis": x_axis,
        "yaxis": y_axis,
    }


def _level(height: float) -> Chart:
    return {
        "type": "line",
        "layer": "below",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": height,
        "y1": height,
        "line": {"width": 1, "dash": "dash", "color": "rgba(128, 140, 155, 0.8)"},
    }


def _in_words(axis: Axis, size: float) -> str:
    if axis == "trainable_parameters":
        return f"{format_count(round(size))} trainable"
    return f"{format_bytes(round(size))} at peak"
