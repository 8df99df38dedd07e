"""A JSON Lines file that one process appends to, line by line, and that survives its death.

A line is whole or it is the last one: a run that was killed while writing leaves at most one
half line, which the next run cuts off.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from petl_bench.errors import UsageError

T = TypeVar("T")


class LineFile:
    """The file, held open and locked until this process ends."""

    def __init__(self, path: Path) -> None:
        """Open `path`; it and its folder are made if they are not there.

        Raises:
            UsageError: they cannot be made or written, or another process is writing.
        """
        self.path = path
        self._made = missing(path.parent)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Locked: a second run here must not cut off the line that the first is writing.
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise UsageError(f"out: another run is writing {path}") from None
        except OSError as error:
            raise self._unwritable(error) from None

    def read(self, load: Callable[[bytes], T]) -> list[T]:
        """Every line by `load`; then a half-written last one is cut off.

        Raises:
            UsageError: a line that `load` refuses, and the file stays as it is; or it cannot be
                read or written.
        """
        try:
            data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
            found = list(parse_lines(BytesIO(data), self.path, load))
            os.ftruncate(self._fd, data.rfind(b"\n") + 1)
        except OSError as error:
            raise self._unwritable(error) from None
        return found

    def append(self, document: str) -> None:
        """Write a line so that it survives the death of this process.

        Raises:
            UsageError: the disk does not take it.
        """
        whole = os.fstat(self._fd).st_size
        left = memoryview(document.encode() + b"\n")
        try:
            while left:  # a disk that is nearly full takes a part, and says so by its size alone
                left = left[os.write(self._fd, left) :]
            os.fsync(self._fd)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, whole)
            raise self._unwritable(error) from None

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """Inside, a run: one that fails before its first line leaves no file, nor folders."""
        try:
            yield
        except BaseException:
            if not os.fstat(self._fd).st_size:
                self.path.unlink()
                remove_empty(self._made)
            raise

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(f"out: cannot write {self.path}: {error.strerror}")


def missing(folder: Path) -> list[Path]:
    """`folder` and those it is in, innermost first, that are not there yet."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove `folders`, innermost first, up to one that still holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def parse_lines(lines: Iterable[bytes], file: Path, load: Callable[[bytes], T]) -> Iterator[T]:
    """The records in the lines of `file`; a half-written last one is passed over.

    Raises:
        UsageError: a line that is not a record; the message has its number.
    """
    for number, line in enumerate(lines, start=1):
        # What follows the last newline was being written when its run ended.
        if line.isspace() or not line.endswith(b"\n"):
            continue
        try:
            found = load(line)
        except ValueError as error:
            reason = _reason(error)
            raise UsageError(f"records: {file} line {number} is not a record: {reason}") from None
        yield found


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "record"
    return f"{where}: {first['msg']}"
