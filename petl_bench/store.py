"""The store: records in a JSON Lines file, appended and flushed one by one."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from petl_bench.errors import UsageError
from petl_bench.garbage import collection_paused
from petl_bench.lines import LineFile, parse_lines
from petl_bench.record import Environment, Origin, Record, Status
from petl_bench.record_reader import RecordReader
from petl_bench.units import MIB

FILE_NAME = "records.jsonl"


class Expected(NamedTuple):
    """What decides whether a stored record would come out the same again."""

    case_id: str
    origin: Origin
    environment: Environment
    method_source_sha256: str | None

    @classmethod
    def of(cls, record: Record) -> "Expected":
        """The same facts of a record that is there."""
        return cls(record.case_id, record.origin, record.environment, record.method_source_sha256)


class Store:
    """The records of one run folder."""

    def __init__(self, folder: Path, *, timelines: bool = True) -> None:
        """Open `folder`, made if it is not there; repair a half-written last line.

        Without `timelines`, which take nine tenths of a line, they are not written.

        Raises:
                UsageError: the folder cannot be made or written, another process is writing to it,
                or a line is not a record.
        """
        self._file = LineFile(folder / FILE_NAME)
        self.path = self._file.path
        self._timelines = timelines
        self.records: list[Record] = []
        self._of_case: dict[str, list[Record]] = {}
        with collection_paused():
            for record in self._file.read(RecordReader()):
                self._take(record)

    def append(self, record: Record) -> None:
        """Write `record` so that it survives the death of this process.

        Raises:
            UsageError: the disk does not take it.
        """
        if not self._timelines:
            record = without_timeline(record)
        self._file.append(record.model_dump_json())
        self._take(record)

    def _take(self, record: Record) -> None:
        self.records.append(record)
        self._of_case.setdefault(record.case_id, []).append(record)

    def or_nothing(self) -> AbstractContextManager[None]:
        """Inside, a run: one that fails before its first record leaves nothing."""
        return self._file.or_nothing()

    def finished(self, planned: Expected) -> Record | None:
        """The latest record that is as good as running the case again; an error never is."""
        for record in reversed(self._of_case.get(planned.case_id, ())):
            if record.status is not Status.ERROR and planned == Expected.of(record):
                return record
        return None


def without_timeline(record: Record) -> Record:
    """`record` less what nobody reads where there are many, and takes nine tenths of its line."""
    if record.measurement is None:
        return record
    measurement = replace(record.measurement, timeline=())
    return record.model_copy(update={"measurement": measurement})


def read_records(path: Path) -> Iterator[Record]:
    """The records in `path`, a JSON Lines file or a folder that holds one, as they are asked for.

    A half-written last line is passed over.

    Raises:
        UsageError: no such file, or a line that is not a record; the message has its number.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        with file.open("rb", buffering=MIB) as lines:
            yield from parse_lines(lines, file, RecordReader())
    except OSError as error:
        raise UsageError(f"records: cannot read {file}: {error.strerror}") from None


def load_records(*paths: Path) -> list[Record]:
    """All records in `paths` at once, as `read_records` gives them one by one.

    Raises:
        UsageError: as `read_records`.
    """
    with collection_paused():
        return [record for path in paths for record in read_records(path)]


def latest(records: list[Record]) -> list[Record]:
    """One record a case, origin and device: the last one written, at its first one's place."""
    newest: dict[tuple[str, Origin, str], Record] = {}
    for record in records:
        newest[record.case_id, record.origin, record.environment.place] = record
    return list(newest.values())
