"""Records as rows: a DataFrame for programs, and tables for people.

Measured and simulated numbers never share a table: records are first split into groups that
asked the same question (backbone, workload) of the same place (origin, device), and savings are
taken within a group only. A number that is absent is null in the frame and a dash in a table.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Literal

import pandas as pd
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from petl_bench.case import BASELINE_METHOD, Backbone, Mode, Workload
from petl_bench.garbage import collection_paused
from petl_bench.record import Category, Fit, Measurement, Origin, Phase, PhaseMemory, Record, Status
from petl_bench.units import format_bytes, format_count

ABSENT = "-"
_SMALLEST_PERCENT = 0.001
STEP_PHASES = tuple(phase for phase in Phase if phase not in {Phase.LOAD, Phase.INITIALISE})
_PHASES_OF = {
    Mode.TRAINING: (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER_STEP),
    Mode.INFERENCE: (Phase.FORWARD,),
    Mode.GENERATE: (Phase.PREFILL, Phase.DECODE),
}
_RICH_STYLES = {
    Status.OK: "green",
    Status.OOM: "bold red",
    Status.ERROR: "bold red",
    Status.SKIPPED: "yellow",
}
_RICH_HEADER_WIDTH = 10  # characters; a header must not make a column of numbers wider

Value = str | int | float | None


# --------------------------------------------------------------------------------------------
# Groups: records that may be compared with each other


@dataclass(frozen=True, kw_only=True)
class Group:
    """Records of one backbone and workload, from one origin and device."""

    origin: Origin
    device: str  # and the era that it stands for
    backbone: Backbone
    workload: Workload
    records: tuple[Record, ...]

    @property
    def place(self) -> str:
        """Where the numbers come from, such as "simulated for a100-80gb"."""
        return f"{self.origin} {'on' if self.origin is Origin.MEASURED else 'for'} {self.device}"

    @property
    def setting(self) -> str:
        """Everything but backbone and place; what differs from a default is always named."""
        load = self.workload
        named = ("batch_size", "source_length_tokens", "target_length_tokens", "optimizer", "mode")
        silent = () if load.optimizer else (None,)  # what nothing that trains has
        parts = [
            self.backbone.dtype.value,
            self.backbone.attention.value,
            *([self.backbone.quantize.value] if self.backbone.quantize else []),
            f"batch {load.batch_size}",
            f"source {load.source_length_tokens}",
            *([f"target {load.target_length_tokens}"] if load.target_length_tokens else []),
            load.optimizer.value if load.optimizer else load.mode.value,
        ]
        parts += [
            f"{name.replace('_', ' ')} {getattr(load, name)}"
            for name, field in type(load).model_fields.items()
            if name not in named and getattr(load, name) not in {field.default, *silent}
        ]
        return ", ".join(parts)

    @property
    def title(self) -> str:
        """The group in one line: backbone, setting and place."""
        return f"{self.backbone.name}, {self.setting}: {self.place}"

    @property
    def baseline(self) -> Record | None:
        """The newest full fine-tuning that ended well, if there is one."""
        found = [record for record in self.records if _is_baseline(record) and record.measurement]
        return found[-1] if found else None


def groups(records: Iterable[Record]) -> list[Group]:
    """`records` split into comparable groups, in order of first appearance."""
    members: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        members.setdefault(_group_key(record), []).append(record)
    return [
        Group(
            origin=first.origin,
            device=first.environment.place,
            backbone=first.case.backbone,
            workload=first.case.workload,
            records=tuple(found),
        )
        for found in members.values()
        for first in found[:1]
    ]


def _group_key(record: Record) -> tuple[str, ...]:
    case = record.case
    question = case.backbone.model_dump_json(), case.workload.model_dump_json()
    return record.origin, record.environment.place, *question


def _is_baseline(record: Record) -> bool:
    return record.case.method.name == BASELINE_METHOD


# --------------------------------------------------------------------------------------------
# One record's values: each derived number is derived here and nowhere else


@dataclass(frozen=True)
class _Row:
    """A record beside the baseline of its group."""

    record: Record
    baseline: Record | None

    @property
    def seen(self) -> Measurement | None:
        return self.record.measurement

    @cached_property  # sixteen columns ask for it
    def peak(self) -> PhaseMemory | None:
        return self.seen.peak() if self.seen else None

    @property
    def fit(self) -> Fit | None:
        return self.seen.fit if self.seen else None

    @property
    def fits(self) -> bool | None:
        return self.fit.refusal is None if self.fit else None

    @property
    def load_bytes(self) -> int | None:
        return self.seen.load.end_allocated_bytes if self.seen else None

    def phase_peak_bytes(self, phase: Phase) -> int | None:
        memory = self.seen.of(phase) if self.seen else None
        return memory.peak_allocated_bytes if memory else None

    def category_bytes(self, category: Category) -> int | None:
        by_category = self.peak.by_category if self.peak else None
        return None if by_category is None else by_category.get(category, 0)

    @property
    def trainable_percent(self) -> float | None:
        # The LST paper's denominator: the backbone as it was, without what the method adds.
        if self.seen is None or not self.seen.backbone_parameters:
            return None
        return 100 * self.seen.trainable_parameters / self.seen.backbone_parameters

    @property
    def saving_percent(self) -> float | None:
        if self.seen is None or self.baseline is None or self.baseline.measurement is None:
            return None
        whole = self.baseline.measurement.peak_allocated_bytes
        return 100 * (whole - self.seen.peak_allocated_bytes) / whole if whole else None

    @property
    def samples_per_s(self) -> float | None:
        if self.seen is None or not self.seen.step_times_s:
            return None
        return self.record.case.workload.batch_size / median(self.seen.step_times_s)

    @property
    def roofline_samples_per_s(self) -> float | None:
        if self.seen is None or self.seen.roofline is None:
            return None
        return self.record.case.workload.batch_size / self.seen.roofline.step_s


def _measured_column(name: str) -> tuple[str, Callable[[_Row], Value]]:
    def get(row: _Row) -> int | None:
        return getattr(row.seen, name) if row.seen else None

    return "Int64", get


def _phase_column(phase: Phase) -> tuple[str, Callable[[_Row], Value]]:
    return "Int64", lambda row: row.phase_peak_bytes(phase)


def _category_column(category: Category) -> tuple[str, Callable[[_Row], Value]]:
    return "Int64", lambda row: row.category_bytes(category)


_COLUMNS: dict[str, tuple[str, Callable[[_Row], Value]]] = {
    "method": ("string", lambda row: row.record.case.method.name),
    "label": ("string", lambda row: row.record.label),
    "backbone": ("string", lambda row: row.record.case.backbone.name),
    "dtype": ("string", lambda row: row.record.case.backbone.dtype.value),
    "attention": ("string", lambda row: row.record.case.backbone.attention.value),
    "batch_size": ("Int64", lambda row: row.record.case.workload.batch_size),
    "source_length_tokens": ("Int64", lambda row: row.record.case.workload.source_length_tokens),
    "target_length_tokens": ("Int64", lambda row: row.record.case.workload.target_length_tokens),
    "mode": ("string", lambda row: row.record.case.workload.mode.value),
    "optimizer": ("string", lambda row: row.record.case.workload.optimizer),
    "origin": ("string", lambda row: row.record.origin.value),
    "device": ("string", lambda row: row.record.environment.place),
    "status": ("string", lambda row: row.record.status.value),
    "reason": ("string", lambda row: row.record.reason),
    "requested_bytes": ("Int64", lambda row: row.record.requested_bytes),
    "fits": ("boolean", lambda row: row.fits),
    "capacity_bytes": ("Int64", lambda row: row.fit.capacity_bytes if row.fit else None),
    "total_parameters": _measured_column("total_parameters"),
    "backbone_parameters": _measured_column("backbone_parameters"),
    "trainable_parameters": _measured_column("trainable_parameters"),
    "trainable_percent": ("Float64", lambda row: row.trainable_percent),
    "peak_allocated_bytes": _measured_column("peak_allocated_bytes"),
    "peak_reserved_bytes": _measured_column("peak_reserved_bytes"),
    **{
        f"peak_{phase}_allocated_bytes": _phase_column(phase)
        for phase in (Phase.INITIALISE, *STEP_PHASES)
    },
    # What stays once the model stands; the step's peaks include it.
    "load_allocated_bytes": ("Int64", lambda row: row.load_bytes),
    **{f"{category}_bytes": _category_column(category) for category in Category},
    "saving_percent": ("Float64", lambda row: row.saving_percent),
    "flops_per_step": _measured_column("flops_per_step"),
    "samples_per_s": ("Float64", lambda row: row.samples_per_s),
    "roofline_samples_per_s": ("Float64", lambda row: row.roofline_samples_per_s),
    "case_id": ("string", lambda row: row.record.case_id),
}


def values(group: Group) -> list[dict[str, Value]]:
    """The group's records as plain values, by the column names of `to_frame`."""
    baseline = group.baseline
    rows = [_Row(record, baseline) for record in group.records]
    return [{name: get(row) for name, (_, get) in _COLUMNS.items()} for row in rows]


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record, in the order given: raw integers, null where there is no number.

    Columns end in their unit. `trainable_percent` is of `backbone_parameters`; `saving_percent`
    is of the group's full fine-tuning; the columns named after categories are at the overall
    peak; `load_allocated_bytes` is what is held once the model stands.
    """
    with collection_paused():
        keys = [_group_key(record) for record in records]
        pairs = list(zip(keys, records, strict=True))
        baselines = {key: r for key, r in pairs if _is_baseline(r) and r.measurement}  # the newest
        rows = [_Row(record, baselines.get(key)) for key, record in pairs]
        return pd.DataFrame(
            {
                name: pd.Series([get(row) for row in rows], dtype=dtype)
                for name, (dtype, get) in _COLUMNS.items()
            }
        )


def to_csv(frame: pd.DataFrame) -> str:
    """`frame` as CSV with a header; nulls are empty."""
    return frame.to_csv(index=False, lineterminator="\n")


# --------------------------------------------------------------------------------------------
# Tables for people


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column's header, and the side its text keeps to."""

    header: str
    align: Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell's text, and what stands behind it."""

    text: str
    number: int | float | None = None  # to sort by; None for text and for absent numbers
    status: Status | None = None  # to colour by; None outside the status column


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table ready to print: every number is already text."""

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class _Shown:
    """A column of numbers: which value, under what header, as which text."""

    name: str
    header: str
    text: Callable[[int], str] | Callable[[float], str]


def percent(share: float) -> str:
    """`share` of a hundred: one decimal, or three significant digits where that says more.

    >>> percent(58.36), percent(0.0342), percent(0.0), percent(0.00002)
    ('58.4 %', '0.0342 %', '0.0 %', '< 0.001 %')
    """
    if abs(share) >= 10 or share == 0:  # noqa: PLR2004
        return f"{share:.1f} %"
    if abs(share) < _SMALLEST_PERCENT:
        return f"< {_SMALLEST_PERCENT} %" if share > 0 else f"> -{_SMALLEST_PERCENT} %"
    return f"{share:.3g} %"


def _rate(samples_per_s: float) -> str:
    return f"{samples_per_s:,.0f}" if samples_per_s >= 100 else f"{samples_per_s:.3g}"  # noqa: PLR2004


def throughput_column(group: Group) -> tuple[str, str]:
    """Name of the group's throughput value, and the header that says what kind it is."""
    if group.origin is Origin.MEASURED:
        return "samples_per_s", "samples/s (measured)"
    return "roofline_samples_per_s", "samples/s (roofline estimate)"


def summary(records: Sequence[Record], *, phases: bool = False) -> list[Table]:
    """One table a group: what each method costs; with `phases`, the peak of each phase too."""
    return [_summary_table(group, phases=phases) for group in groups(records)]


def phase_peaks(records: Sequence[Record]) -> list[Table]:
    """One table a group, of what finished: held once loaded, then the peak of each phase."""
    loaded = _Shown("load_allocated_bytes", "after load", format_bytes)
    caption = "Highest allocated memory within each phase, over all measured steps."
    return [
        _table(group, [loaded, *_shown_phases(group)], caption, failures=False)
        for group in groups(records)
    ]


def category_peaks(records: Sequence[Record]) -> list[Table]:
    """One table a group, of what finished: what the bytes at the overall peak are for."""
    shown = [
        _Shown(f"{category}_bytes", category.replace("_", " "), format_bytes)
        for category in Category
    ]
    shown += [_Shown("peak_allocated_bytes", "peak allocated", format_bytes)]
    caption = "Allocated memory at the highest moment of the step, by what it is for."
    return [_table(group, shown, caption, failures=False) for group in groups(records)]


def across_workloads(records: Sequence[Record]) -> list[Table]:
    """One table a backbone and place: what a run over all workloads needs, the largest's peak."""
    kinds: dict[str, list[Group]] = {}
    for group in groups(records):
        first = group.records[0]
        question = first.case.backbone.model_dump_json()
        kinds.setdefault(f"{first.origin} {group.place} {question}", []).append(group)
    return [_across(members) for members in kinds.values()]


def _across(members: Sequence[Group]) -> Table:
    first = members[0]
    largest: dict[str, tuple[int, Group]] = {}
    for group in members:
        for record in group.records:
            if record.measurement is not None:
                found = record.measurement.peak_allocated_bytes, group
                largest[record.label] = max(largest.get(record.label, found), found, key=_first)
    return Table(
        title=f"{first.backbone.name}, the largest of {len(members)} workloads: {first.place}",
        caption="One run that trains on them in turn needs what the largest needs.",
        columns=(
            Column(header="method", align="left"),
            Column(header="peak allocated", align="right"),
            Column(header="set by", align="left"),
        ),
        rows=tuple(
            (
                Cell(text=label),
                Cell(text=format_bytes(peak), number=peak),
                Cell(text=group.setting),
            )
            for label, (peak, group) in largest.items()
        ),
    )


def _first(found: tuple[int, Group]) -> int:
    return found[0]


def side_by_side(records: Sequence[Record]) -> Table | None:
    """Peak allocated of every method in every group, beside the first one's; None for one group."""
    found = groups(records)
    if len(found) < 2:  # noqa: PLR2004
        return None
    peaks = [peaks_by_label(group) for group in found]
    labels = dict.fromkeys(label for by_label in peaks for label in by_label)
    return Table(
        title="Runs side by side",
        caption="Peak allocated; the percentage is of the first column's.",
        columns=(
            Column(header="method", align="left"),
            *(Column(header=name, align="right") for name in distinct_names(found)),
        ),
        rows=tuple(
            (Cell(text=label), *_beside_the_first([by_label.get(label) for by_label in peaks]))
            for label in labels
        ),
    )


def peaks_by_label(group: Group) -> dict[str, int | None]:
    """Peak allocated bytes of the group's methods, null where a case did not finish."""
    return {
        record.label: record.measurement.peak_allocated_bytes if record.measurement else None
        for record in group.records
    }


def distinct_names(found: Sequence[Group]) -> list[str]:
    """What sets each group apart from the others, in words."""
    parts = [[group.backbone.name, *group.setting.split(", "), group.place] for group in found]
    common = set(parts[0]).intersection(*parts)
    return [", ".join(part for part in own if part not in common) or own[0] for own in parts]


def _beside_the_first(sizes: Sequence[int | None]) -> Iterable[Cell]:
    first = sizes[0]
    for place, size in enumerate(sizes):
        if size is None:
            yield Cell(text=ABSENT)
            continue
        change = f" ({100 * (size - first) / first:+.1f} %)" if place and first else ""
        yield Cell(text=f"{format_bytes(size)}{change}", number=size)


def _shown_phases(group: Group) -> list[_Shown]:
    phases = list(_PHASES_OF[group.workload.mode])
    if any(record.measurement and record.measurement.initialise for record in group.records):
        phases.insert(0, Phase.INITIALISE)
    return [
        _Shown(f"peak_{phase}_allocated_bytes", phase.replace("_", " "), format_bytes)
        for phase in phases
    ]


def _summary_table(group: Group, *, phases: bool) -> Table:
    shown = [
        _Shown("trainable_parameters", "trainable", format_count),
        _Shown("trainable_percent", "% of backbone", percent),
        _Shown("peak_allocated_bytes", "peak allocated", format_bytes),
        _Shown("peak_reserved_bytes", "peak reserved", format_bytes),
        _Shown("saving_percent", "saving", percent),
        *(_shown_phases(group) if phases else []),
        _Shown("flops_per_step", "FLOPs per step", format_count),
        _Shown(*throughput_column(group), _rate),
    ]
    return _table(group, shown, _summary_caption(group), failures=True)


def _summary_caption(group: Group) -> str:
    baseline = group.baseline
    if baseline is None or baseline.measurement is None:
        sentences = ["No saving is given: full fine-tuning has no numbers here."]
    else:
        size = format_bytes(baseline.measurement.peak_allocated_bytes)
        sentences = [f"Saving: peak allocated, against {size} of full fine-tuning."]
    if group.origin is Origin.SIMULATED:
        sentences.append(
            "Memory is simulated; samples/s is a roofline estimate, not a measurement."
        )
    return " ".join([*sentences, *_beyond_the_card(group)])


def _beyond_the_card(group: Group) -> list[str]:
    """Sentences about the cases that a simulation let grow larger than their card, or nearly."""
    beyond, tight, room = [], [], ""
    for record in group.records:
        seen, total_bytes = record.measurement, record.environment.device_total_bytes
        if seen is None:
            continue
        if seen.fit is not None:
            room = f"{format_bytes(seen.fit.capacity_bytes)} that {group.device} has for tensors"
            if seen.fit.refusal is not None:
                beyond.append(record.label)
            elif seen.peak_reserved_bytes > seen.fit.capacity_bytes:
                tight.append(record.label)
        elif total_bytes is not None and seen.peak_reserved_bytes > total_bytes:
            room = f"{format_bytes(total_bytes)} of {group.device}"
            beyond.append(record.label)
    sentences = []
    if beyond:
        verb = "does" if len(beyond) == 1 else "do"
        sentences.append(f"{_listed(beyond)} {verb} not fit into the {room}.")
    if tight:
        verb = "fits" if len(tight) == 1 else "fit"
        sentences.append(
            f"{_listed(tight)} {verb} into the {room} only by giving cached memory back."
        )
    return sentences


def _listed(labels: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))


def _table(group: Group, shown: Sequence[_Shown], caption: str, *, failures: bool) -> Table:
    """A row a record; with `failures`, those without numbers too, and how each case ended."""
    status = (Column(header="status", align="left"),) if failures else ()
    columns = (
        Column(header="method", align="left"),
        *(Column(header=each.header, align="right") for each in shown),
        *status,
    )
    rows = tuple(
        (
            Cell(text=record.label),
            *(_number_cell(found[each.name], each) for each in shown),
            *(Cell(text=status_text(record), status=record.ending) for _ in status),
        )
        for record, found in zip(group.records, values(group), strict=True)
        if failures or record.measurement
    )
    return Table(title=group.title, caption=caption, columns=columns, rows=rows)


def _number_cell(value: Value, shown: _Shown) -> Cell:
    if value is None or isinstance(value, str):
        return Cell(text=ABSENT)
    return Cell(text=shown.text(value), number=value)  # type: ignore[arg-type]


def status_text(record: Record) -> str:
    """How the case ended, with the reason and the request that did not fit."""
    if record.measurement is not None:
        fit = record.measurement.fit
        return f"too large: {_refusal_text(fit)}" if fit and fit.refusal else record.status.value
    asked = record.requested_bytes
    request = "" if asked is None else f" (requested {format_bytes(asked)})"
    return f"{record.status}: {record.reason}{request}"


def _refusal_text(fit: Fit) -> str:
    refused = fit.refusal
    assert refused is not None
    made_by = "" if refused.operator.startswith("(") else f", {refused.operator}"
    return (
        f"no room in {refused.phase.replace('_', ' ')} for"
        f" {format_bytes(refused.requested_bytes)} ({refused.category.replace('_', ' ')}{made_by})"
        f" with {format_bytes(refused.reserved_bytes)} of {format_bytes(fit.capacity_bytes)}"
        " reserved"
    )


def finding(group: Group) -> str:
    """The group's key result in one sentence."""
    finished = [
        (record, record.measurement.peak_allocated_bytes)
        for record in group.records
        if record.measurement
    ]
    if not finished:
        return f"No case of {len(group.records)} finished."
    baseline = group.baseline
    rivals = [pair for pair in finished if not _is_baseline(pair[0])]
    least, size = min(rivals or finished, key=lambda pair: pair[1])
    needs = f"{least.label} needs {format_bytes(size)} at peak"
    if baseline is None or baseline.measurement is None:
        return f"{needs}, the least of {len(finished)}; full fine-tuning has no numbers here."
    whole = baseline.measurement.peak_allocated_bytes
    if not rivals:
        return f"{needs}; no other method finished."
    if size >= whole:
        return f"No method saves memory: {needs}, full fine-tuning {format_bytes(whole)}."
    return _saving_sentence(_Row(least, baseline), whole)


def _saving_sentence(row: _Row, whole: int) -> str:
    assert row.seen is not None
    saved = percent(row.saving_percent or 0.0)
    size = format_bytes(row.seen.peak_allocated_bytes)
    trained = (
        "" if row.trainable_percent is None else f", training {percent(row.trainable_percent)}"
    )
    parameters = " of the parameters" if trained else ""
    return (
        f"{row.record.label} saves most: {size} at peak instead of {format_bytes(whole)},"
        f" {saved} less than full fine-tuning{trained}{parameters}."
    )


# --------------------------------------------------------------------------------------------
# Renderers: the same walk over a Table, once a format


def to_markdown(table: Table) -> str:
    """`table` as GitHub-flavoured Markdown, title above and caption below."""
    rules = {"left": ":---", "right": "---:"}
    lines = [
        _markdown_line(column.header for column in table.columns),
        "| " + " | ".join(rules[column.align] for column in table.columns) + " |",
        *(_markdown_line(cell.text for cell in row) for row in table.rows),
    ]
    title, caption = markdown_text(table.title), markdown_text(table.caption)
    return "\n".join([f"**{title}**", "", *lines, "", caption, ""])


def _markdown_line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(markdown_text(text) for text in texts) + " |"


def markdown_text(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would read."""
    return re.sub(r"([\\|*`<])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def to_latex(table: Table) -> str:
    """`table` as a LaTeX table, for the booktabs package; its caption is title and caption."""
    sides = {"left": "l", "right": "r"}
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(table.title)}. {_latex_text(table.caption)}}}",
        rf"\begin{{tabular}}{{{''.join(sides[column.align] for column in table.columns)}}}",
        r"\toprule",
        _latex_line(column.header for column in table.columns),
        r"\midrule",
        *(_latex_line(cell.text for cell in row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _latex_line(texts: Iterable[str]) -> str:
    return " & ".join(_latex_text(text) for text in texts) + r" \\"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def to_rich(table: Table) -> RichTable:
    """`table` for a terminal: numbers to the right, the status in colour, reasons below."""
    # Everything goes in as Text: rich would take the brackets of a label in a str for markup.
    rich = RichTable(
        title=Text(table.title, style="bold"),
        caption=Text("\n").join([*_rich_reasons(table), Text(table.caption, style="dim")]),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in table.columns:
        header = "\n".join(textwrap.wrap(column.header, _RICH_HEADER_WIDTH))
        # Fold: a narrow terminal breaks lines, and never hides digits behind an ellipsis.
        rich.add_column(Text(header), justify=column.align, overflow="fold", vertical="bottom")
    for row in table.rows:
        rich.add_row(*(_rich_text(cell) for cell in row))
    return rich


def _rich_text(cell: Cell) -> Text:
    if cell.status is None:
        return Text(cell.text)
    return Text(cell.text.partition(":")[0], style=_RICH_STYLES[cell.status])


def _rich_reasons(table: Table) -> list[Text]:
    # In a row of their own width: a terminal has no room for a sentence in a column.
    return [
        Text(f"{row[0].text}: {cell.text}", style=_RICH_STYLES[cell.status])
        for row in table.rows
        for cell in row
        if cell.status not in (None, Status.OK)
    ]
