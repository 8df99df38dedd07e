"""What verbs share when they print and write."""

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from petl_bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from petl_bench.record import Record
    from petl_bench.tables import Table

WIDTH_OF_A_PIPE = 200


def stdout() -> "Console":
    """Stdout; where it is no terminal, with room for any table."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE)


def print_tables(tables: "Iterable[Table]") -> None:
    """Print tables, one below the other."""
    from petl_bench.tables import to_rich

    console = stdout()
    for table in tables:
        console.print(to_rich(table))


def print_costs(records: "Sequence[Record]", *, phases: bool = False) -> None:
    """Print what cases cost, group by group; of several groups, an overview last."""
    from petl_bench.tables import groups, one_by_one, summary

    print_tables(summary(records, phases=phases))
    if len(groups(records)) > 1:
        print_tables([one_by_one(records)])


def command_line() -> str:
    """The command that is under way, to paste."""
    return shlex.join(["petl-bench", *sys.argv[1:]])


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Files in or below `path` are written here, as `option` asks.

    Raises:
        UsageError: one of them cannot be.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise UsageError(f"{option}: cannot write {where}: {error.strerror}") from None
