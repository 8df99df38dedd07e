"""Bars: peaks by category, phase by phase, and of several runs side by side."""

from collections.abc import Sequence

from petl_bench.palette import SHAPES, Look, look
from petl_bench.record import Category, Phase
from petl_bench.report.chart import UNATTRIBUTED, Chart, category_name, plain
from petl_bench.series import Bar, bars, byte_axis, present
from petl_bench.tables import Group, broken, distinct_names, peaks_by_label, percent
from petl_bench.units import format_bytes

_LABEL_WIDTH = 18  # characters; longer ones are broken, or a phone has no room left for bars
_HATCHES = ("", "/", "x", ".")  # one a round of colours


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
    # Rows are equally high, so that each has room for the longest label.
    lines = len(labels) * max([2, *(label.count("<br>") + 1 for label in labels)])
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
    meta = category.value if category else UNATTRIBUTED
    sizes = [_bar_bytes(bar, category) for bar in found]
    shares = [
        100 * size / bar.peak_bytes if bar.peak_bytes else 0.0
        for size, bar in zip(sizes, found, strict=True)
    ]
    return {
        "type": "bar",
        "orientation": "h",
        "meta": meta,  # the page gives it its colour
        "name": category_name(meta),
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
            "name": plain(name),
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


def _broken(label: str) -> str:
    """The label in lines that a phone has room for."""
    return "<br>".join(plain(line) for line in broken(label, _LABEL_WIDTH))
