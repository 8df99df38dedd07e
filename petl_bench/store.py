"""The store: records in a JSON Lines file, appended and flushed one by one.

A line is whole or it is the last one: a run that was killed while writing leaves at most one
half line, which the next run cuts off.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from petl_bench.errors import UsageError
from petl_bench.garbage import collection_paused
from petl_bench.record import Environment, Origin, Record, Status, load_record_json

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
        self.path = folder / FILE_NAME
        self._timelines = timelines
        self.records: list[Record] = []
        self._of_case: dict[str, list[Record]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Held open and locked until this process ends: a second run here must not cut off
            # the line that the first is writing.
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
            with collection_paused():
                for record in list(_parse_lines(data, self.path)):  # what is none stays as it is
                    self._take(record)
            os.ftruncate(self._fd, data.rfind(b"\n") + 1)
        except BlockingIOError:
            raise UsageError(f"out: another run is writing {self.path}") from None
        except OSError as error:
            raise UsageError(f"out: cannot write {self.path}: {error.strerror}") from None

    def append(self, record: Record) -> None:
        """Write `record` so that it survives the death of this process.

        Raises:
            UsageError: the disk does not take it.
        """
        if not self._timelines:
            record = without_timeline(record)
        whole = os.fstat(self._fd).st_size
        left = memoryview(record.model_dump_json().encode() + b"\n")
        try:
            while left:  # a disk that is nearly full takes a part, and says so by its size alone
                left = left[os.write(self._fd, left) :]
            os.fsync(self._fd)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, whole)
            raise UsageError(f"out: cannot write {self.path}: {error.strerror}") from None
        self._take(record)

    def _take(self, record: Record) -> None:
        self.records.append(record)
        self._of_case.setdefault(record.case_id, []).append(record)

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
    measurement = record.measurement.model_copy(update={"timeline": ()})
    return record.model_copy(update={"measurement": measurement})


def read_records(path: Path) -> Iterator[Record]:
    """The records in `path`, a JSON Lines file or a folder that holds one.

    A half-written last line is passed over.

    Raises:
        UsageError: no such file, or a line that is not a record; the message has its number.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"records: cannot read {file}: {error.strerror}") from None
    with collection_paused():
        records = list(_parse_lines(data, file))
    yield from records


def latest(records: list[Record]) -> list[Record]:
    """One record a case, origin and device: the last one written, at its first one's place."""
    newest: dict[tuple[str, Origin, str], Record] = {}
    for record in records:
        newest[record.case_id, record.origin, record.environment.place] = record
    return list(newest.values())


def _parse_lines(data: bytes, file: Path) -> Iterator[Record]:
    # What follows the last newline was being written when its run ended.
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        if line.strip():
            yield _parse(line, file, number)


def _parse(line: bytes, file: Path, number: int) -> Record:
    try:
        return load_record_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        reason = f"{where}: {first['msg']}"
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except ValueError as error:
        reason = str(error)
    raise UsageError(f"records: {file} line {number} is not a record: {reason}")
