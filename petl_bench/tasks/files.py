"""Local data: a folder with a file a split.

    DIR/train.jsonl  DIR/validation.jsonl  DIR/test.jsonl      (or .csv, or .parquet)

JSON Lines: an object a line. CSV: a header, commas, quotes as spreadsheets write them. Both are
UTF-8. Parquet: a table. Each example has the task's text fields and its label, which is a name or a
number of the task's; other fields are passed over. train must be there, and validation or test; see
`splits` for what becomes of a folder without one of them.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.errors import UsageError


class Row(NamedTuple):
    """A data set's row as it was read, and where, as in "train.jsonl line 3"."""

    where: str
    fields: Mapping[str, object]


def read(folder: Path, split: str) -> list[Row] | None:
    """The rows of `folder`'s file for `split`; None if there is none.

    Raises:
        UsageError: two such files, or one that is not what its name says; the message has the
            line.
    """
    found = [path for path in (folder / f"{split}{end}" for end in _READERS) if path.is_file()]
    if not found:
        return None
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UsageError(f"data: {folder} has {names}; keep one")
    (path,) = found
    try:
        rows = list(_READERS[path.suffix](path))
    except OSError as error:
        raise UsageError(f"data: cannot read {path}: {error.strerror or error}") from None
    if not rows:
        raise UsageError(f"data: {path} holds no examples")
    return rows


def json_lines(path: Path) -> Iterator[Row]:
    """A row a line.

    Raises:
        UsageError: a line is no JSON object, or not UTF-8.
    """
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"data: {where} is not JSON: {error.msg}") from None
        except RecursionError:
            raise UsageError(f"data: {where} is nested too deeply") from None
        if not isinstance(fields, dict):
            raise UsageError(f"data: {where} is not a JSON object")
        yield Row(where, fields)


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for fields in reader:
            where = f"{path} line {reader.line_num}"
            if None in fields:
                raise UsageError(f"data: {where} has more fields than the header")
            yield Row(where, fields)
    except csv.Error as error:
        raise UsageError(f"data: {path} line {reader.reader.line_num}: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(
            f"data: {path} needs pyarrow; pip install petl-bench[tasks], or use JSON Lines"
        ) from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except ArrowException as error:
        first = str(error).partition("\n")[0]
        raise UsageError(f"data: {path} is not Parquet: {first}") from None
    yield from (Row(f"{path} row {number}", row) for number, row in enumerate(rows, start=1))


def document(path: Path) -> Any:
    """The JSON document at `path`.

    Raises:
        UsageError: it cannot be read, is no JSON, or has a name twice in an object; the message
            has the line where there is one.
    """
    try:
        text = _text(path)
    except OSError as error:
        raise UsageError(f"data: cannot read {path}: {error.strerror or error}") from None
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise UsageError(f"data: {path} line {error.lineno} is not JSON: {error.msg}") from None
    except RecursionError:
        raise UsageError(f"data: {path} is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"data: {path}: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"data: {path} line {line} is not UTF-8 text") from None


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}
ENDINGS = tuple(_READERS)
