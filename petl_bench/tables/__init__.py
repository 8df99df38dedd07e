"""Records as rows: a DataFrame for programs, and tables for people."""

from petl_bench.tables.finding import finding
from petl_bench.tables.frame import STEP_PHASES, Value, latest_rows, to_csv, to_frame, values
from petl_bench.tables.groups import Group, distinct_names, groups, peaks_by_label
from petl_bench.tables.rendering import markdown_text, to_latex, to_markdown
from petl_bench.tables.summaries import (
    across_workloads,
    category_peaks,
    one_by_one,
    percent,
    phase_peaks,
    side_by_side,
    status_text,
    summary,
    throughput_column,
)
from petl_bench.tables.table import ABSENT, Cell, Column, Table
from petl_bench.tables.terminal import broken, pieces, to_rich

__all__ = [
    "ABSENT",
    "STEP_PHASES",
    "Cell",
    "Column",
    "Group",
    "Table",
    "Value",
    "across_workloads",
    "broken",
    "category_peaks",
    "distinct_names",
    "finding",
    "groups",
    "latest_rows",
    "markdown_text",
    "one_by_one",
    "peaks_by_label",
    "percent",
    "phase_peaks",
    "pieces",
    "side_by_side",
    "status_text",
    "summary",
    "throughput_column",
    "to_csv",
    "to_frame",
    "to_latex",
    "to_markdown",
    "to_rich",
    "values",
]
