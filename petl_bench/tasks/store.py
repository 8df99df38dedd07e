"""Training records in a JSON Lines file, so that a run that was killed goes on where it was."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from petl_bench.errors import UsageError
from petl_bench.lines import LineFile, parse_lines
from petl_bench.record import Environment, Status
from petl_bench.tasks.record import TrainingRecord

FILE_NAME = "training.jsonl"


class Expected(NamedTuple):
    """What decides whether a stored record would come out the same again."""

    trial_id: str
    environment: Environment
    method_source_sha256: str

    @classmethod
    def of(cls, record: TrainingRecord) -> "Expected":
        """The same facts of a record that is there."""
        return cls(record.trial_id, record.environment, record.method_source_sha256)


class TrainingStore:
    """The records of one run folder."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`, made if it is not there; repair a half-written last line.

        Raises:
            UsageError: the folder cannot be made or written, another process is writing to it,
                or a line is not a record.
        """
        self._file = LineFile(folder / FILE_NAME)
        self.path = self._file.path
        self.records = self._file.read(TrainingRecord.model_validate_json)

    def append(self, record: TrainingRecord) -> None:
        """Write `record` so that it survives the death of this process.

        Raises:
            UsageError: the disk does not take it.
        """
        self._file.append(record.model_dump_json())
        self.records.append(record)

    def or_nothing(self) -> AbstractContextManager[None]:
        """Inside, a run: one that fails before its first record leaves nothing."""
        return self._file.or_nothing()

    def finished(self, expected: Expected) -> TrainingRecord | None:
        """The latest record that is as good as training again; an error never is."""
        for record in reversed(self.records):
            if record.status is not Status.ERROR and expected == Expected.of(record):
                return record
        return None


def is_training(path: Path) -> bool:
    """Whether `path` is a run of `train`: its folder, or its file."""
    return path.name == FILE_NAME or (path / FILE_NAME).is_file()


def read_training(path: Path) -> list[TrainingRecord]:
    """The records in `path`, a folder or a file; a half-written last line is passed over.

    Raises:
        UsageError: no such file, or a line that is not a record; the message has its number.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        with file.open("rb") as lines:
            return list(parse_lines(lines, file, TrainingRecord.model_validate_json))
    except OSError as error:
        raise UsageError(f"records: cannot read {file}: {error.strerror}") from None
