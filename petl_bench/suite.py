"""A suite: a grid of backbones, methods and workloads; and its plan, the list of its cells.

A suite file is TOML. Every value may be a list, which makes the grid:

    methods = ["full", "lora[r=8|32]", "lst"]

    [backbone]
    name = ["t5-base", "t5-large"]
    dtype = "bf16"

    [workload]
    batch_size = [8, 32, 100]

`name` in [workload] is one that petl_bench/workloads.py has; other fields there override it.
"""

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from petl_bench import backbones, method_spec, workloads
from petl_bench.case import (
    BASELINE_METHOD,
    Attention,
    Backbone,
    Case,
    DType,
    Quantization,
    Workload,
)
from petl_bench.errors import UsageError, hint

E = TypeVar("E", bound=StrEnum)

_BACKBONE_FIELDS = ("name", "dtype", "attention", "quantize")


@dataclass(frozen=True, kw_only=True)
class PlannedCase:
    """One cell, and its method as it was asked for."""

    label: str
    case: Case


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A grid: each axis maps a field to the values that it takes."""

    methods: Sequence[str]
    backbone: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    workload: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def plan(self) -> list[PlannedCase]:
        """All cells, the baseline first within each backbone and workload; none twice.

        Raises:
            UsageError: a field or value that does not exist.
        """
        choices = method_spec.parse_specs(",".join(self.methods))
        choices.sort(key=lambda choice: choice[1].name != BASELINE_METHOD)
        if choices[0][1].name != BASELINE_METHOD:
            choices = [*method_spec.parse_specs(BASELINE_METHOD), *choices]
        cells: dict[str, PlannedCase] = {}
        for backbone, asked in itertools.product(self.backbones(), self.workloads()):
            workload = backbones.fitted(backbone, asked)
            for label, choice in choices:
                method = method_spec.fitted(choice, backbone)
                case = Case(backbone=backbone, method=method, workload=workload)
                cells.setdefault(case.case_id, PlannedCase(label=label, case=case))
        return list(cells.values())

    def asked_for(self, plan: Iterable[PlannedCase]) -> list[PlannedCase]:
        """`plan` without the baseline, unless that was asked for."""
        labels = {label for label, _ in method_spec.parse_specs(",".join(self.methods))}
        return [planned for planned in plan if planned.label in labels]

    def backbones(self) -> list[Backbone]:
        """The backbone axes' cells, in the order written."""
        axes = {"name": ["t5-base"], **self.backbone}
        return [
            backbones.find(
                str(cell["name"]),
                dtype=one_of("dtype", DType, cell.get("dtype", DType.FP32)),
                attention=one_of("attention", Attention, cell.get("attention", Attention.EAGER)),
                quantize=one_of("quantize", Quantization, cell["quantize"])
                if "quantize" in cell
                else None,
            )
            for cell in _product(axes)
        ]

    def workloads(self) -> list[Workload]:
        """The workload axes' cells, in the order written."""
        cells = []
        for cell in _product(self.workload):
            fields = dict(cell)
            name = fields.pop("name", None)
            named = [{}] if name is None else workloads.find(str(name))
            cells += [_workload(known | fields) for known in named]
        return cells

    @property
    def takes_the_largest(self) -> bool:
        """Whether its workloads are one run's, which needs what the largest of them does."""
        return workloads.LARGEST in self.workload.get("name", ())


def load_suite(path: Path) -> Suite:
    """The suite in the TOML file `path`.

    Raises:
        UsageError: unreadable, not TOML, or a key or value that a suite does not have.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"suite: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"suite: {path} is not TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"suite: {path} is nested too deeply") from None
    try:
        return _parse_suite(document)
    except UsageError as error:
        raise UsageError(f"suite {path}: {error}") from None


def _parse_suite(document: Mapping[str, Any]) -> Suite:
    _check_keys("suite", document, ("methods", "backbone", "workload"))
    methods = document.get("methods", [])
    if "methods" in document and methods == []:
        raise UsageError("methods: no value given; leave the line out for all of them")
    if not isinstance(methods, list) or not all(isinstance(m, str) for m in methods):
        raise UsageError('methods must be a list of strings, such as ["lst", "lora[r=8]"]')
    suite = Suite(
        methods=methods,
        backbone=_axes(document, "backbone", _BACKBONE_FIELDS),
        workload=_axes(document, "workload", (*Workload.model_fields, "name")),
    )
    # Values, too, are checked here, where the file and the table can be named.
    if methods:
        method_spec.parse_specs(",".join(methods))
    for table, cells in (("backbone", suite.backbones), ("workload", suite.workloads)):
        try:
            cells()
        except UsageError as error:
            raise UsageError(f"[{table}] {error}") from None
    return suite


def _axes(document: Mapping[str, Any], table: str, fields: Sequence[str]) -> dict[str, list[Any]]:
    given = document.get(table, {})
    if not isinstance(given, dict):
        raise UsageError(f"{table} must be a table, [{table}]")
    _check_keys(table, given, fields)
    return {key: value if isinstance(value, list) else [value] for key, value in given.items()}


def _check_keys(table: str, given: Iterable[str], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise UsageError(f"{table} has no field {key!r}; {hint(key, known)}")


def _product(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    for key, values in axes.items():
        if not values:
            raise UsageError(f"{key}: no value given")
    return [dict(zip(axes, cell, strict=True)) for cell in itertools.product(*axes.values())]


def one_of(name: str, kind: type[E], value: Any) -> E:
    """The member of `kind` that `value` names, for the field `name`.

    Raises:
        UsageError: there is none.
    """
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(kind)
        raise UsageError(f"{name}: {value!r} is not one of {choices}") from None


def _clipping(cell: Mapping[str, Any]) -> dict[str, None]:
    """0 switches clipping off: TOML has no null."""
    given = cell.get("clip_grad_norm")
    return {"clip_grad_norm": None} if type(given) in {int, float} and not given else {}


def _workload(cell: Mapping[str, Any]) -> Workload:
    try:
        return Workload(**{**cell, **_clipping(cell)})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if not name:  # of several fields together; the message names them
            raise UsageError(first["msg"].removeprefix("Value error, ")) from None
        raise UsageError(f"{name}: {first['msg']} (got {first['input']!r})") from None
