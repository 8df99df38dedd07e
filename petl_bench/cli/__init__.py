"""The command line: parse, call, print, exit code.

Exit codes: 0 done; 1 some case did not end well or grew, or a defect of ours; 2 a request that
cannot be carried out as written; 130 stopped by the user. Verbs import what they need when they
run, so that --help answers at once.
"""

import os
import sys
from typing import Annotated

import typer

from petl_bench import __version__
from petl_bench.cli import (
    baseline,
    compare,
    explain,
    fit,
    inspect,
    present,
    reproduce,
    run,
    speed,
    train,
    verify,
)
from petl_bench.errors import UsageError
from petl_bench.garbage import collection_paused

app = typer.Typer(
    name="petl-bench",
    help="What a fine-tuning method costs, before you rent the GPU.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("show")(present.show)
app.command("report")(present.report)
app.command("fit", short_help="Find the largest batch that fits into a card.")(fit.fit)
app.command("speed")(speed.speed)
app.command("explain")(explain.explain)
app.command("compare", short_help="Tell whether memory has grown, and where.")(compare.compare)
app.add_typer(baseline.app, name="baseline")
app.command("verify")(verify.verify)
app.command("train")(train.train)
app.command("reproduce")(reproduce.reproduce)
app.command("methods")(inspect.methods)
app.command("backbones")(inspect.backbones)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"petl-bench {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Entry point of the petl-bench command."""
    try:
        with collection_paused():
            app()
    except UsageError as error:
        _leave(f"error: {error}", 2)
    except OSError as error:  # a full disk, say: where an option is to blame, it is named
        if os.environ.get("PETL_BENCH_DEBUG"):
            raise
        _leave(f"error: {error}", 2)
    except Exception as error:
        if os.environ.get("PETL_BENCH_DEBUG"):
            raise
        kind = type(error).__name__
        _leave(f"defect: {kind}: {error} (PETL_BENCH_DEBUG=1 shows where; please report it)", 1)


def _leave(message: str, code: int) -> None:
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(code)
