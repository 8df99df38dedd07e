"""What can be compared: a question, the place where it was asked, and the answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from petl_bench.errors import UsageError
from petl_bench.method_spec import resolve
from petl_bench.record import Environment, Measurement, Origin, Part, Record, Status
from petl_bench.tables import groups


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One result, wherever it comes from."""

    case_id: str  # the same for the same question
    label: str  # what it is called beside others of its setting
    setting: str  # what it has in common with them, in one line
    origin: Origin
    environment: Environment
    protocol_version: int
    ending: Status
    reason: str | None
    measurement: Measurement | None
    at_peak: tuple[Part, ...] = ()  # what the peak is made of, where that is known

    @classmethod
    def of(cls, record: Record) -> Self:
        """The record's question, place and answer. The label may change, the case's id not."""
        return cls(
            case_id=todays_id(record),
            label=record.label,
            setting=groups([record])[0].title,
            origin=record.origin,
            environment=record.environment,
            protocol_version=record.protocol_version,
            ending=record.ending,
            reason=record.reason,
            measurement=record.measurement,
            at_peak=record.at_peak,
        )


def todays_id(record: Record) -> str:
    """The id of the record's case, with the options that its method has gained since at defaults.

    A baseline outlives an option more; if the default changes what is done, that is to be seen.
    """
    method = record.case.method
    try:
        choice = resolve(method.name, dict(method.config))
    except UsageError:  # a method or an option that is gone
        return record.case_id
    return record.case.model_copy(update={"method": choice}).case_id


def of_records(records: Iterable[Record]) -> list[Subject]:
    """Every record's subject."""
    return [Subject.of(record) for record in records]
