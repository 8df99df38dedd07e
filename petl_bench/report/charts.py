"""The report's charts, as plotly figures in plain JSON values.

They show the values of `series`. Colours of text and grid are left to the page, which follows the
reader's light or dark theme. plotly reads tags in its text, so every label is escaped here.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from petl_bench.palette import SHAPES, Look, look
from petl_bench.record import Category, Phase
from petl_bench.series import (
    Axis,
    Bar,
    Point,
    Timeline,
    bars,
    byte_axis,
    frontier,
    limits,
    logarithmic,
    points,
    present,
    throughput_label,
    timelines,
)
from petl_bench.tables import Group, broken, distinct_names, peaks_by_label, percent
from petl_bench.units import format_bytes, format_count

Chart = dict[str, Any]
"""A plotly figure: its traces under "data", its axes and titles under "layout"."""

FRONTIER = "Pareto frontier: nothing beats it in both"
_LABEL_WIDTH = 18  # characters; longer ones are broken, or a phone has no room left for bars
_HATCHES = ("", "/", "x", ".")  # one a round of colours
_UNATTRIBUTED = "unattributed"
_BAND = "rgba(128, 140, 155, 0.10)"


def legend(charts: Sequence[Chart]) -> list[tuple[str, str]]:
    """Every category that `charts` show, in stacking order: its name, and what the page calls it.

    The page writes it: plotly's own takes the chart's room on a phone.
    """
    metas = [trace.get("meta") for chart in charts for trace in chart["data"]]
    shown = {meta["band"] if isinstance(meta, dict) else meta for meta in metas}
    return [(_name(each), each) for each in (*Category, _UNATTRIBUTED) if each in shown]


def _name(category: str) -> str:
    return "not told apart" if category == _UNATTRIBUTED else category.replace("_", " ")


def peak_charts(group: Group) -> list[tuple[str, Chart]]:
    """Stacked bars by category of the whole step's peak and of each phase's, all to one scale.

    None at all when nothing finished.
    """
    whole = bars(group)
    largest = max((bar.peak_bytes or 0 for bar in whole), default=0)
    if not largest:
        return []
    phases = [(phase, bars(group, phase)) for phase in Phase]
    return [("whole step", _peak_chart(whole, largest))] + [
        ("loaded" if phase is Phase.LOAD else phase.replace("_", " "), _peak_chart(found, largest))
        for phase, found in phases
        if any(bar.peak_bytes for bar in found)
    ]


def _peak_chart(found: Sequence[Bar], largest: int) -> Chart:
    unit, unit_name = byte_axis(largest)
    labels = [_broken(bar.label) for bar in found]
    lines = sum(max(2, label.count("<br>") + 1) for label in labels)
    traces = [
        _bar_trace(found, category, unit)
        for category in present([bar.by_category or {} for bar in found])
    ]
    if any(bar.peak_bytes is not None and bar.by_category is None for bar in found):
        traces.append(_bar_trace(found, None, unit))
    return {
        "data": traces,
        "layout": {
            "barmode": "stack",
            "bargap": 0.3,
            "height": 130 + 17 * lines,
            "hovermode": "y unified",
            "margin": {"l": 8, "r": 8, "t": 8, "b": 44},
            "showlegend": False,
            "xaxis": {
                "title": {"text": f"peak allocated memory ({unit_name})"},
                "range": [0, 1.3 * largest / unit],
            },
            "yaxis": {
                "automargin": True,
                "tickvals": list(range(len(found))),
                "ticktext": labels,
                "range": [len(found) - 0.5, -0.5],
                "showgrid": False,
                "showspikes": False,
                "zeroline": False,
            },
            "annotations": [_note(bar, index, unit) for index, bar in enumerate(found)],
        },
    }


def _bar_trace(found: Sequence[Bar], category: Category | None, unit: int) -> Chart:
    meta = category.value if category else _UNATTRIBUTED
    sizes = [_bar_bytes(bar, category) for bar in found]
    shares = [
        100 * size / bar.peak_bytes if bar.peak_bytes else 0.0
        for size, bar in zip(sizes, found, strict=True)
    ]
    return {
        "type": "bar",
        "orientation": "h",
        "meta": meta,  # the page gives it its colour
        "name": _name(meta),
        "x": [size / unit for size in sizes],
        "y": list(range(len(found))),
        "customdata": [
            [format_bytes(size), percent(share)] for size, share in zip(sizes, shares, strict=True)
        ],
        "hovertemplate": "%{customdata[0]}, %{customdata[1]}",
    }


def _bar_bytes(bar: Bar, category: Category | None) -> int:
    if category is None:
        return (bar.peak_bytes or 0) if bar.by_category is None else 0
    return (bar.by_category or {}).get(category, 0)


def _note(bar: Bar, index: int, unit: int) -> Chart:
    size, _, saving = bar.note.partition("  ")
    return {
        "x": (bar.peak_bytes or 0) / unit,
        "y": index,
        "text": f"{size}  <b>{saving}</b>" if saving else size,
        "xanchor": "left",
        "align": "left",
        "xshift": 4,
        "showarrow": False,
    }


def run_legend(found: Sequence[Group]) -> list[tuple[str, Look]]:
    """Name and look of every group in `side_by_side_chart`."""
    return [(name, look(series)) for series, name in enumerate(distinct_names(found))]


def side_by_side_chart(found: Sequence[Group]) -> Chart:
    """Bars of the peak of every method, one a group."""
    peaks = [peaks_by_label(group) for group in found]
    labels = list(dict.fromkeys(label for by_label in peaks for label in by_label))
    largest = max((size or 0 for by_label in peaks for size in by_label.values()), default=0) or 1
    unit, unit_name = byte_axis(largest)
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": _plain(name),
            "x": [(by_label.get(label) or 0) / unit for label in labels],
            "y": list(range(len(labels))),
            "meta": f"series{shown.number}",  # the page gives it its colour
            "marker": {"pattern": {"shape": _HATCHES[SHAPES.index(shown.shape)]}},
            "customdata": [format_bytes(by_label.get(label) or 0) for label in labels],
            "hovertemplate": "%{customdata}",
        }
        for (name, shown), by_label in zip(run_legend(found), peaks, strict=True)
    ]
    return {
        "data": traces,
        "layout": {
            "barmode": "group",
            "bargap": 0.25,
            "height": 90 + len(labels) * max(34, 16 * len(found)),
            "hovermode": "y unified",
            "margin": {"l": 8, "r": 8, "t": 8, "b": 44},
            "showlegend": False,
            "xaxis": {"title": {"text": f"peak allocated memory ({unit_name})"}},
            "yaxis": {
                "automargin": True,
                "tickvals": list(range(len(labels))),
                "ticktext": [_broken(label) for label in labels],
                "range": [len(labels) - 0.5, -0.5],
                "showgrid": False,
                "showspikes": False,
                "zeroline": False,
            },
        },
    }


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
            [_plain(point.label), format_bytes(point.peak_bytes), place]
            for point, place in zip(found, places, strict=True)
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]} at peak<br>%{customdata[2]}"
        "<extra></extra>",
        "marker": {"size": 11 if best else 9},
    }


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
            "name": _name(category),
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


def _plain(text: str) -> str:
    return html.escape(text, quote=False)


def _broken(label: str) -> str:
    """The label in lines that a phone has room for."""
    return "<br>".join(_plain(line) for line in broken(label, _LABEL_WIDTH))
