"""Allocated memory over a step, by category."""

from collections.abc import Sequence

from petl_bench.report.chart import Chart, category_name
from petl_bench.series import Timeline, byte_axis, present, timelines
from petl_bench.tables import Group

_BAND = "rgba(128, 140, 155, 0.10)"


def timeline_charts(group: Group) -> list[tuple[str, Chart]]:
    """The method and its step's timeline, for each record that has one; all to one scale."""
    found = timelines(group)
    largest = max((each.peak_bytes for each in found), default=0)
    return [(each.label, _timeline_chart(each, largest)) for each in found]


def _timeline_chart(found: Timeline, largest: int) -> Chart:
    unit, unit_name = byte_axis(largest)
    events = list(found.events)
    traces: list[Chart] = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "bytes",
            "meta": category.value,
            "name": category_name(category),
            "x": events,
            "y": [round(point.by_category.get(category, 0) / unit, 4) for point in found.points],
            "line": {"width": 0, "shape": "hv"},
            "hovertemplate": f"%{{y:.3f}} {unit_name}",
        }
        for category in present([point.by_category for point in found.points])
    ]
    total: Chart = {
        "type": "scatter",
        "mode": "lines",
        "name": "total",
        "x": events,
        "y": [round(point.allocated_bytes / unit, 4) for point in found.points],
        "line": {"width": 0, "shape": "hv"},  # for the hover only
        "hovertemplate": f"%{{y:.3f}} {unit_name}",
    }
    shapes, notes = phase_shapes(found.bands)
    return {
        "data": [*traces, total],
        "layout": {
            "height": 420,
            "hovermode": "x unified",
            "margin": {"l": 56, "r": 20, "t": 8, "b": 48},
            "showlegend": False,
            "xaxis": event_axis(events),
            "yaxis": {
                "title": {"text": f"allocated memory ({unit_name})"},
                "range": [0, 1.12 * largest / unit],
            },
            "shapes": shapes,
            "annotations": notes,
        },
    }


def event_axis(events: Sequence[int]) -> Chart:
    """The axis of a step's timeline: its allocations and frees, in their order."""
    return {
        "title": {"text": "allocations and frees in the step"},
        "range": [0, max(events[-1], 1)],
        "showgrid": False,
    }


def phase_shapes(bands: Sequence[tuple[str, int, int]]) -> tuple[list[Chart], list[Chart]]:
    """Shading and names of phases, each with its first event and the first one after it."""
    notes: list[Chart] = [
        {
            "x": (first + end) / 2,
            "y": 1,
            "yref": "paper",
            "yanchor": "top",
            "text": phase.replace("_", "<br>"),
            "showarrow": False,
        }
        for phase, first, end in bands
    ]
    return [_band(first, end) for _, first, end in bands[::2]], notes


def _band(first: int, end: int) -> Chart:
    return {
        "type": "rect",
        "layer": "below",
        "x0": first,
        "x1": end,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "fillcolor": _BAND,
        "line": {"width": 0},
    }
