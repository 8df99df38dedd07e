"""A measured record beside the simulation of its case."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from petl_bench.record import Measurement, Origin, Record, Status
from petl_bench.tables import groups


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A measured record, and the simulation of its case for the card that was measured on."""

    measured: Record
    simulated: Record | None  # None: there is none

    @property
    def measurements(self) -> tuple[Measurement, Measurement] | None:
        """What was measured and what was simulated, if both sides ended well."""
        measured = self.measured.measurement
        simulated = self.simulated.measurement if self.simulated else None
        return (measured, simulated) if measured and simulated else None

    @property
    def agrees(self) -> bool:
        """Whether both sides ended alike. An error is no answer, and agrees with nothing."""
        return (
            self.simulated is not None
            and self.measured.ending == self.simulated.ending != Status.ERROR
        )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Pairs of one backbone and workload, measured on one device under one allocator setting."""

    pairs: tuple[Pair, ...]

    @property
    def title(self) -> str:
        """Backbone, workload, device, and the allocator's options if there are any."""
        group = groups(pair.measured for pair in self.pairs)[0]
        options = self.pairs[0].measured.environment.allocator_settings
        return group.title + (f", {options}" if options else "")


def newest(records: Iterable[Record]) -> list[Record]:
    """One record a case, device and allocator setting: the one made last, in its first one's place.

    Unlike `store.latest` this keeps a case apart that was measured under several allocator
    settings, and goes by date, since the records come from many files.
    """
    found: dict[tuple[str, str, str], Record] = {}
    for record in records:
        place = record.environment
        key = record.case.case_id, place.device, place.allocator_settings
        if key not in found or record.created >= found[key].created:
            found[key] = record
    return list(found.values())


def pair_up(
    measured: Iterable[Record], simulated: Iterable[Record], cards: Mapping[str, str]
) -> list[Pair]:
    """Each measured record beside the simulation of its case on its card and allocator settings.

    `cards` maps the name of a measured device to the card that stands for it. The case's own
    id counts, not the stored one, which an older version may have hashed otherwise.
    """
    by_question = {
        _question(record, record.environment.device): record
        for record in simulated
        if record.origin is Origin.SIMULATED and record.environment.emulates is None
    }
    return [
        Pair(
            measured=record,
            simulated=by_question.get(_question(record, cards[record.environment.device])),
        )
        for record in measured
        if record.origin is Origin.MEASURED
    ]


def _question(record: Record, card: str) -> tuple[str, str, str, int]:
    settings = record.environment.allocator_settings
    return record.case.case_id, card, settings, record.protocol_version


def settings(pairs: Iterable[Pair]) -> list[Setting]:
    """`pairs` split by backbone, workload, device and allocator settings."""
    members: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        case, place = pair.measured.case, pair.measured.environment
        question = case.backbone.model_dump_json(), case.workload.model_dump_json()
        key = *question, place.device, place.allocator_settings
        members.setdefault(key, []).append(pair)
    return [Setting(pairs=tuple(found)) for found in members.values()]
