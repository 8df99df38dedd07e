"""Peak memory against speed or trainable parameters, with the Pareto frontier."""

import math
from collections.abc import Sequence

from petl_bench.report.chart import Chart, plain
from petl_bench.series import (
    Axis,
    Point,
    byte_axis,
    frontier,
    limits,
    logarithmic,
    points,
    throughput_label,
)
from petl_bench.tables import Group
from petl_bench.units import format_bytes, format_count

FRONTIER = "Pareto frontier: nothing beats it in both"


def pareto_chart(group: Group, x: Axis) -> Chart | None:
    """Peak memory against `x` with the frontier; None when no record has both numbers."""
    found = points(group, x)
    if not found:
        return None
    unit, unit_name = byte_axis(max(point.peak_bytes for point in found))
    across, up = limits(found, x)
    x_axis: Chart = {"title": {"text": throughput_label(group)}, "range": list(across)}
    if x == "trainable_parameters":
        x_axis["title"] = {"text": "trainable parameters"}
    if logarithmic(found, x):
        x_axis |= {"type": "log", "dtick": 1, "exponentformat": "SI"}
        x_axis["range"] = [math.log10(end) for end in across]
    return {
        "data": [
            _frontier_trace(found, unit, x),
            _point_trace(found, best=False, unit=unit, x=x),
            _point_trace(found, best=True, unit=unit, x=x),
        ],
        "layout": {
            "height": 420,
            "hovermode": "closest",
            "margin": {"l": 56, "r": 20, "t": 8, "b": 48},
            "showlegend": False,
            "xaxis": x_axis,
            "yaxis": {
                "title": {"text": f"peak allocated memory ({unit_name})"},
                "range": [end / unit for end in up],
            },
        },
    }


def _frontier_trace(found: Sequence[Point], unit: int, x: Axis) -> Chart:
    corners = frontier(found, x)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": FRONTIER,
        "meta": "frontier",
        "x": [place for place, _ in corners],
        "y": [size / unit for _, size in corners],
        "hoverinfo": "skip",
    }


def _point_trace(found: Sequence[Point], *, best: bool, unit: int, x: Axis) -> Chart:
    found = [point for point in found if point.best == best]
    counted = x == "trainable_parameters"
    places = [
        f"{format_count(round(point.x))} trainable" if counted else f"{point.x:.4g} samples/s"
        for point in found
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": "best" if best else "beaten",  # the page gives these their colour and places labels
        "x": [point.x for point in found],
        "y": [point.peak_bytes / unit for point in found],
        "customdata": [
            [plain(point.label), format_bytes(point.peak_bytes), place]
            for point, place in zip(found, places, strict=True)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]} at peak<br>%{customdata[2]}"
        "<extra></extra>",
        "marker": {"size": 11 if best else 9},
    }
