"""The answers as tables for people, and as rows for programs."""

import pandas as pd

from petl_bench.explanation import collapsed
from petl_bench.fit.answers import Answer, Curve, Frontier, Overflow
from petl_bench.fit.axis import Vary
from petl_bench.record import Origin, Status
from petl_bench.tables import ABSENT, Cell, Column, Group, Table
from petl_bench.units import format_bytes

_UNIT = {Vary.BATCH: "batch", Vary.LENGTH: "source tokens", Vary.BACKBONE: "backbone"}


def title(frontier: Frontier) -> str:
    """What was asked, in one line; the axis is left out of it."""
    first = frontier.curves[0].case
    group = Group(
        origin=Origin.SIMULATED,
        device=frontier.environment.place,
        backbone=first.backbone,
        workload=first.workload,
        records=(),
    )
    load = first.workload
    words = {
        Vary.BATCH: f"batch {load.batch_size}, ",
        Vary.LENGTH: f"source {load.source_length_tokens}, ",
        Vary.BACKBONE: f"{first.backbone.name}, ",
    }
    return f"largest {_UNIT[frontier.vary]}: {group.title.replace(words[frontier.vary], '', 1)}"


def overview(frontier: Frontier) -> Table:
    """A row a method, a column a memory: how much fits."""
    rows = []
    for curve in frontier.curves:
        cells = [_largest_cell(answer, frontier.vary) for answer in curve.answers]
        missing = [Cell(text=ABSENT)] * (len(frontier.memory_bytes) - len(cells))
        rows.append((Cell(text=curve.label), *cells, *missing))
    return Table(
        title=title(frontier),
        caption="",
        columns=(
            Column(header="method", align="left"),
            *(Column(header=format_bytes(m), align="right") for m in frontier.memory_bytes),
        ),
        rows=tuple(rows),
    )


def details(frontier: Frontier) -> Table:
    """A row a method and memory: how much fits, how tightly, and what one more fails at."""
    headers = ["method", "memory", f"largest {_UNIT[frontier.vary]}", "peak allocated"]
    headers += ["peak reserved", "margin", "one more fails in", "for"]
    align = ("left", "right", "right", "right", "right", "right", "left", "left")
    rows = []
    for curve in frontier.curves:
        if curve.reason is not None:
            status = Status.SKIPPED if curve.skipped else Status.ERROR
            cells = [Cell(text=ABSENT)] * (len(headers) - 2)
            rows.append((Cell(text=curve.label), *cells, Cell(text=curve.reason, status=status)))
        rows += [_detail_row(answer, frontier.vary) for answer in curve.answers]
    return Table(
        title=title(frontier),
        caption=caption(frontier),
        columns=tuple(
            Column(header=header, align=side)  # type: ignore[arg-type]
            for header, side in zip(headers, align, strict=True)
        ),
        rows=tuple(rows),
    )


def caption(frontier: Frontier) -> str:
    """How the answers are meant."""
    simulations = sum(len(curve.points) for curve in frontier.curves)
    return (
        f"Memory is the card's, as PyTorch finds it; {format_bytes(frontier.context_bytes)} of it"
        f" are set aside for CUDA's context on {frontier.environment.device} (an estimate)."
        " Fragments of the allocator count. Margin: what the allocator never asked for."
        f" From {simulations} simulations of a training step."
    )


def _detail_row(answer: Answer, vary: Vary) -> tuple[Cell, ...]:
    held, overflow = answer.largest, answer.overflow
    sizes = (
        (held.peak_allocated_bytes, held.peak_reserved_bytes, held.margin_bytes)
        if held
        else (None, None, None)
    )
    return (
        Cell(text=answer.label),
        Cell.of(answer.memory_bytes, format_bytes),
        _largest_cell(answer, vary),
        *(Cell.of(size, format_bytes) for size in sizes),
        Cell(text=overflow.phase.replace("_", " ") if overflow else ABSENT),
        Cell(text=tensor_text(overflow) if overflow else ABSENT),
    )


def tensor_text(overflow: Overflow) -> str:
    """The tensor that did not fit: bytes, category, and the module that asked."""
    tensor = overflow.tensor
    size = format_bytes(tensor.allocated_bytes)
    return f"{size} {tensor.category.replace('_', ' ')} of {collapsed(tensor.module)}"


def _largest_cell(answer: Answer, vary: Vary) -> Cell:
    if answer.largest is None:
        return Cell(text="none", number=0)
    place = answer.largest.place
    if vary is Vary.BACKBONE:
        return Cell(text=place)
    sign = "" if answer.overflow else "≥ "
    return Cell(text=f"{sign}{int(place):,}", number=int(place))


def to_frame(frontier: Frontier) -> pd.DataFrame:
    """One row a method and memory, raw integers in bytes, null where there is no number."""
    rows = [
        row
        for curve in frontier.curves
        for row in ([_row(frontier, curve, answer) for answer in curve.answers] or [_why(curve)])
    ]
    frame = pd.DataFrame(rows)
    integers = [name for name in frame if str(name).endswith("_bytes")]
    return frame.astype(dict.fromkeys(integers, "Int64"))


def _why(curve: Curve) -> dict[str, object]:
    return {"label": curve.label, "reason": curve.reason}


def _row(frontier: Frontier, curve: Curve, answer: Answer) -> dict[str, object]:
    held, overflow = answer.largest, answer.overflow
    return {
        "label": curve.label,
        "backbone": None if frontier.vary is Vary.BACKBONE else curve.case.backbone.name,
        "device": frontier.environment.place,
        "vary": frontier.vary.value,
        "memory_bytes": answer.memory_bytes,
        "capacity_bytes": answer.capacity_bytes,
        "largest": held and held.place,
        "peak_allocated_bytes": held and held.peak_allocated_bytes,
        "peak_reserved_bytes": held and held.peak_reserved_bytes,
        "margin_bytes": held and held.margin_bytes,
        "overflows_at": overflow and overflow.place,
        "overflow_phase": overflow and overflow.phase.value,
        "overflow_category": overflow and overflow.tensor.category.value,
        "overflow_requested_bytes": overflow and overflow.tensor.allocated_bytes,
        "overflow_operator": overflow and overflow.tensor.operator,
        "overflow_module": overflow and overflow.tensor.module,
        "overflow_source": overflow and overflow.tensor.source,
        "reason": None,
    }
