"""A step's timeline as a plotly figure in which every large tensor is a band of its own."""

from collections.abc import Iterator
from itertools import groupby

from petl_bench.explanation import Band, Explanation, Moment, StepTimeline
from petl_bench.record import Category
from petl_bench.report.chart import Chart, plain
from petl_bench.report.timeline import event_axis, phase_shapes
from petl_bench.series import byte_axis
from petl_bench.units import format_bytes

_SHADES = (1.0, 0.82)  # of neighbouring bands, so that one is told from the next


def step_chart(found: StepTimeline, explanation: Explanation) -> Chart:
    """Allocated memory over the step: by category from below, large tensors in order of birth."""
    unit, unit_name = byte_axis(explanation.peak_allocated_bytes)
    events = [moment.event for moment in found.moments]
    totals = [sum(moment.rest.values()) for moment in found.moments]
    traces: list[Chart] = []
    for category in Category:
        rest = [moment.rest.get(category, 0) for moment in found.moments]
        bands = sorted(
            (band for band in found.bands if band.tensor.category is category),
            key=lambda band: (band.born, -band.tensor.allocated_bytes),
        )
        if any(rest):
            name = category.replace("_", " ")
            text = f"<b>{'other ' if bands else ''}{name}</b><br>up to {format_bytes(max(rest))}"
            traces.append(_trace(category, events, rest, unit, text, opacity=1.0))
        for number, band in enumerate(bands):
            alive = found.alive(band)
            sizes = [band.tensor.allocated_bytes if there else 0 for there in alive]
            totals = [total + size for total, size in zip(totals, sizes, strict=True)]
            opacity = _SHADES[(number + 1) % len(_SHADES)]
            traces.append(
                _trace(category, events, sizes, unit, _hover(band, found), opacity=opacity)
            )
    peak = max(range(len(totals)), key=totals.__getitem__)
    shapes, notes = phase_shapes(list(_phases(found.moments)))
    notes.append(
        {
            "x": events[peak],
            "y": totals[peak] / unit,
            "text": f"peak {format_bytes(totals[peak])}",
            "yanchor": "bottom",
            "showarrow": False,
        }
    )
    return {
        "data": traces,
        "layout": {
            "height": 560,
            "hovermode": "closest",
            "margin": {"l": 56, "r": 20, "t": 8, "b": 48},
            "showlegend": False,
            "xaxis": {**event_axis(events), "showspikes": False},
            "yaxis": {
                "title": {"text": f"allocated memory ({unit_name})"},
                "range": [0, 1.18 * max(totals) / unit],
                "showspikes": False,
            },
            "shapes": shapes,
            "annotations": notes,
        },
    }


def _trace(
    category: Category, events: list[int], sizes: list[int], unit: int, text: str, *, opacity: float
) -> Chart:
    return {
        "type": "scatter",
        "mode": "lines",
        "stackgroup": "bytes",
        "meta": {"band": category.value, "opacity": opacity},  # the page gives it its colour
        "name": category.replace("_", " "),
        "x": events,
        "y": [round(size / unit, 4) for size in sizes],
        "line": {"width": 0.5, "shape": "hv"},
        "hoveron": "fills",
        "hoverinfo": "text",
        "text": text,
    }


def _hover(band: Band, found: StepTimeline) -> str:
    """All that is known of a tensor, a line each; plotly reads tags, so all of it is escaped."""
    tensor = band.tensor
    lines = [
        f"{tensor.category.replace('_', ' ')}, {format_bytes(tensor.allocated_bytes)}",
        tensor.operator + (", in backward" if tensor.in_backward else ""),
        f"module {tensor.module}",
        tensor.source,
        lifetime(band, found),
    ]
    return "<br>".join(
        [f"<b>{plain(band_name(band))}</b>", *(plain(line) for line in lines if line)]
    )


def band_name(band: Band) -> str:
    """The tensor's own name, or else the module and the operator that made it."""
    tensor = band.tensor
    return tensor.name or f"{tensor.module} {tensor.operator.partition('::')[2] or tensor.operator}"


def lifetime(band: Band, found: StepTimeline) -> str:
    """From when to when a tensor is alive, in words."""
    born = "all the step" if band.born < 0 else f"from {_when(band.born, found)}"
    if band.died is None:
        return born
    return f"{'from the start' if band.born < 0 else born} to {_when(band.died, found)}"


def _when(event: int, found: StepTimeline) -> str:
    phase = next((m.phase for m in found.moments if m.event >= event), found.moments[-1].phase)
    return f"{phase.replace('_', ' ')} (event {event:,})"


def _phases(moments: tuple[Moment, ...]) -> Iterator[tuple[str, int, int]]:
    runs = [(phase, next(run).event) for phase, run in groupby(moments, lambda at: at.phase)]
    ends = [start for _, start in runs[1:]] + [moments[-1].event + 1]
    for (phase, start), end in zip(runs, ends, strict=True):
        yield phase, max(start, 0), end
