"""petl-bench speed: how long a step takes on a CPU, estimated."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petl_bench.cli import options
from petl_bench.cli.misfits import check_one_workload
from petl_bench.processors import HERE, PROCESSORS

if TYPE_CHECKING:
    from petl_bench.case import Case
    from petl_bench.processors import Processor
    from petl_bench.tables import Table

NOT_TIMED = ("dtype", "quantize", "mode", "beams", "autocast", "parallel", "world_size")
CAPTION = (
    "A roofline estimate of one thread in fp32, not a measurement; what bounds it: arithmetic,"
    " memory, or the launch of operators. Its order of methods is its strength: docs/speed.md."
)


@options.with_case_options
def speed(
    *,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", "-m", help="What to compare, such as lst,lora[r=8|32].", show_default="all"
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option(help=f"The CPU: {', '.join(PROCESSORS)}; {HERE} times this one first."),
    ] = HERE,
    case: options.CaseOptions,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON Lines, every number raw.")
    ] = False,
) -> None:
    """Estimate how long a training step takes on a CPU."""
    from petl_bench import processors, registry
    from petl_bench.errors import UsageError
    from petl_bench.suite import Suite

    named = None if on == HERE else processors.find(on)
    for name in NOT_TIMED:
        if getattr(case, name) is not None:
            raise UsageError(f"{name}: speed estimates training in fp32 on one CPU; leave it out")
    asked = methods if methods is not None else ",".join(registry.names())
    plan = Suite(methods=(asked,), **case.axes()).plan()
    check_one_workload("speed", plan)
    if named is None:
        from petl_bench.profilers.simulated.calibration import calibrated

        print("timing this CPU", file=sys.stderr)
        named = calibrated()
    found = [(planned.label, planned.case, _answer(planned.case, named)) for planned in plan]
    if as_json:
        import json

        for label, asked_case, answer in found:
            place = {"method": label, "case_id": asked_case.case_id, "on": named.name}
            sys.stdout.write(json.dumps(place | answer) + "\n")
        return
    from petl_bench.cli.output import print_tables

    print_tables([_table(found, named)])


def _answer(case: "Case", processor: "Processor") -> dict[str, Any]:
    """The estimate's fields, or why there is none."""
    import warnings
    from contextlib import redirect_stdout
    from dataclasses import asdict

    from petl_bench.assembly import unsupported
    from petl_bench.errors import UsageError
    from petl_bench.profilers.simulated.timing import step_time

    reason = unsupported(case)
    if reason is None:
        try:
            with redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = asdict(step_time(case, processor))
        except UsageError as error:
            reason = str(error)
        else:
            del found["card"]
            return found
    return {"reason": reason}


def _table(found: "list[tuple[str, Case, dict[str, Any]]]", processor: "Processor") -> "Table":
    from petl_bench.case import BASELINE_METHOD
    from petl_bench.record import Status
    from petl_bench.tables import Cell, Column, Table

    base = next(
        (answer.get("step_s") for _, case, answer in found if case.method.name == BASELINE_METHOD),
        None,
    )
    rows = []
    for label, case, answer in found:
        seconds = answer.get("step_s")
        if seconds is None:
            cells = [Cell(text="-")] * 4
            status = Cell(text=f"skipped: {answer['reason']}", status=Status.SKIPPED)
        else:
            bounds = {kind: answer[f"{kind}_bound_s"] for kind in ("compute", "memory", "launch")}
            texts = (
                f"{seconds:.3g} s",
                f"{case.workload.batch_size / seconds:.3g}",
                f"{seconds / base:.2f}" if base else "-",
                max(bounds, key=bounds.__getitem__),
            )
            cells = [Cell(text=text) for text in texts]
            status = Cell(text="ok", status=Status.OK)
        rows.append((Cell(text=label), *cells, status))
    headers = ("step", "samples/s", f"of {BASELINE_METHOD}", "bound by")
    columns = (
        Column(header="method", align="left"),
        *(Column(header=header, align="right") for header in headers),
        Column(header="status", align="left"),
    )
    case = found[0][1]
    shape = case.workload
    lengths = [shape.source_length_tokens, shape.target_length_tokens]
    tokens = " + ".join(str(length) for length in lengths if length is not None)
    return Table(
        title=f"{case.backbone.name}, batch {shape.batch_size}, {tokens} tokens"
        f" on {processor.title}",
        caption=CAPTION,
        columns=columns,
        rows=tuple(rows),
    )
