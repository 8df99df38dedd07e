"""Records as one HTML file that opens offline: findings, tables, charts, and how they were got."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from petl_bench.palette import Look
from petl_bench.record import Origin, Record, Status
from petl_bench.report.bar_charts import peak_charts, run_legend, side_by_side_chart
from petl_bench.report.chart import Chart, legend
from petl_bench.report.page import render, unbroken, write_whole
from petl_bench.report.pareto_charts import FRONTIER, pareto_chart
from petl_bench.report.place import environment_rows, when
from petl_bench.report.reproduction import explain_command, run_command
from petl_bench.report.timeline import timeline_charts
from petl_bench.series import Axis, throughput_label
from petl_bench.tables import (
    Group,
    Table,
    category_peaks,
    distinct_names,
    finding,
    groups,
    one_by_one,
    phase_peaks,
    side_by_side,
    status_text,
    summary,
    values,
)
from petl_bench.units import format_bytes

_HOW = {
    Origin.SIMULATED: (
        "Simulated: the training step ran on tensors without data, a ledger followed every"
        " allocation as CUDA would have made it, and a model of PyTorch's caching allocator gave"
        " the reserved bytes. Nothing ran on the card named."
    ),
    Origin.MEASURED: (
        "Measured: each case ran in a process of its own on the card named, and the bytes are"
        " peaks of PyTorch's CUDA caching allocator. Throughput was timed with CUDA events in a"
        " pass of its own, with no profiler in it."
    ),
}
_ROOFLINE = (
    "Roofline estimate: samples/s follow from the FLOPs and bytes of each operator over the peak"
    " rates of {cards}. They are an estimate of speed, not a measurement."
)
_FIT = (
    "Whether a case fits: the step's allocations are replayed in an allocator that has the card's"
    " memory less an estimate of the CUDA context, {rooms}. When that is full, cached segments are"
    " released and the request is tried again; a case is too large where even that fails. Its bytes"
    " are still those of a card without a limit."
)
_FEW = 4
"""Groups that a reader can take in side by side; more are listed, and each opens at a click."""
_PEAKS = "Peak memory by category"
_CHOICES = {_PEAKS: "peak of"}
_COUNTERS = (
    "Peak allocated counts the allocator's blocks that hold live tensors; peak reserved counts"
    " what the allocator holds from the device. Savings compare peak allocated."
)


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """One place for a chart; with several options the reader selects which is drawn."""

    title: str
    description: str  # for those who hear the page
    choice: str  # what the options are
    options: tuple[tuple[str, str], ...]  # label, key of the chart
    legend: tuple[tuple[str, str], ...]  # name, category; empty for a Pareto plot


@dataclass(frozen=True, kw_only=True)
class _Section:
    """All that the page shows of one group."""

    group: Group
    name: str  # what sets the group apart
    finding: str
    summary: Table
    details: tuple[tuple[str, Table], ...]
    figures: tuple[_Figure, ...]
    explain: str | None  # the command that tells what is behind a timeline


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """The groups side by side: few with a chart, many a row each."""

    table: Table
    links: tuple[str, ...] | None = None  # of its rows, where they are groups
    key: str | None = None  # of the chart
    legend: tuple[tuple[str, Look], ...] = ()


def write_report(records: Sequence[Record], path: Path, *, command: str) -> None:
    """Write the report of `records`, got with `command`, to `path`: all of it or nothing.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("there are no records to report")
    write_whole(_render(records, command), path)


def _render(records: Sequence[Record], command: str) -> str:
    charts: dict[str, Chart] = {}
    found = groups(records)
    sections = [
        _section(group, name, number, charts)
        for number, (group, name) in enumerate(zip(found, distinct_names(found), strict=True), 1)
    ]
    return render(
        "report.html.jinja",
        headline=max(sections, key=_best_saving),
        sections=sections,
        many=len(found) > _FEW,
        charts=charts,
        frontier=FRONTIER,
        failures=[(group, _failures(group)) for group in found if _failures(group)],
        environments=_environment_rows(records),
        questions=[
            (
                record.label,
                run_command(record),
                json.dumps(record.case.method.config),
                record.case_id,
                record.origin,
            )
            for record in records
        ],
        comparison=_comparison(records, charts),
        how=_how(records),
        command=command,
        when=when(record.created for record in records),
    )


def _section(group: Group, name: str, number: int, charts: dict[str, Chart]) -> _Section:
    """The group's part of the page; its charts are added to `charts`."""
    (table,) = summary(group.records)
    (phases,), (categories,) = phase_peaks(group.records), category_peaks(group.records)
    figures: list[_Figure] = []
    for title, options in _chart_options(group):
        keys = [f"g{number}-{len(figures)}-{index}" for index in range(len(options))]
        charts |= {key: chart for key, (_, chart) in zip(keys, options, strict=True)}
        labels = [label for label, _ in options]
        figures.append(
            _Figure(
                title=title,
                choice="peak of"
                if len(options) > 1 and options[0][0] == "whole step"
                else "method",
                description=f"{title}: {group.title}. The tables hold the same numbers.",
                options=tuple(zip(labels, keys, strict=True)),
                legend=tuple(legend([chart for _, chart in options])),
            )
        )
    return _Section(
        group=group,
        name=name,
        finding=unbroken(finding(group)),
        summary=table,
        details=(("Peak of each phase", phases), ("What the peak is made of", categories)),
        figures=tuple(figures),
        explain=next(
            (
                explain_command(record)
                for record in group.records
                if record.origin is Origin.SIMULATED and record.measurement
            ),
            None,
        ),
    )


def _comparison(records: Sequence[Record], charts: dict[str, Chart]) -> _Comparison | None:
    """The groups side by side, if there are more than one; its chart is added to `charts`."""
    found = groups(records)
    if len(found) > _FEW:
        links = tuple(f"#group-{number}" for number in range(1, len(found) + 1))
        return _Comparison(table=one_by_one(records), links=links)
    table = side_by_side(records)
    if table is None:
        return None
    charts["side-by-side"] = side_by_side_chart(found)
    return _Comparison(
        table=table,
        key="side-by-side",
        legend=tuple(run_legend(found)),
    )


def _chart_options(group: Group) -> list[tuple[str, list[tuple[str, Chart]]]]:
    """Title of each figure that has data, and the charts to choose from in it."""
    against = {
        "trainable_parameters": "Peak memory against trainable parameters",
        "throughput": f"Peak memory against {throughput_label(group)}",
    }
    found = [(_PEAKS, peak_charts(group))]
    for axis in get_args(Axis):
        chart = pareto_chart(group, axis)
        found.append((against[axis], [("all", chart)] if chart else []))
    found.append(("Memory over one training step", timeline_charts(group)))
    return [(title, options) for title, options in found if options]


def _best_saving(section: _Section) -> float:
    savings = [row["saving_percent"] for row in values(section.group)]
    return max((saving for saving in savings if isinstance(saving, float)), default=-1.0)


def _failures(group: Group) -> list[tuple[str, str]]:
    return [
        (record.label, status_text(record))
        for record in group.records
        if record.status is not Status.OK
    ]


def _environment_rows(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """A row a field, with the value in each of the distinct environments."""
    distinct = list({record.environment.model_dump_json(): record for record in records}.values())
    origins = [record.origin.value for record in distinct]
    return [("origin", origins), *environment_rows(record.environment for record in distinct)]


def _how(records: Sequence[Record]) -> list[str]:
    """A sentence for each way in which the numbers were got."""
    sentences = [_HOW[origin] for origin in Origin if any(r.origin is origin for r in records)]
    cards = sorted(
        {r.measurement.roofline.card for r in records if r.measurement and r.measurement.roofline}
    )
    if cards:
        sentences.append(_ROOFLINE.format(cards=", ".join(cards)))
    fits = {r.environment.device: r.measurement.fit for r in records if r.measurement}
    rooms = [f"{format_bytes(fit.capacity_bytes)} of {name}" for name, fit in fits.items() if fit]
    if rooms:
        sentences.append(_FIT.format(rooms=", ".join(rooms)))
    return [*sentences, _COUNTERS]
