"""What a peak is made of, found by simulating its case again where the record does not say."""

import sys
import warnings
from collections.abc import Iterable
from contextlib import redirect_stdout

from petl_bench import cards
from petl_bench.comparison.composition import compose, total_bytes
from petl_bench.comparison.subjects import todays_id
from petl_bench.comparison.verdicts import Comparison
from petl_bench.errors import UsageError
from petl_bench.record import Origin, Record

MOST_CASES = 12  # simulated again for one comparison; each takes some seconds


def with_parts(record: Record) -> Record:
    """`record` with `at_peak`; as it is where these sources do not come to its peak.

    That is so where other sources made it, or where it was measured.
    """
    if record.measurement is None or record.at_peak or record.origin is Origin.MEASURED:
        return record
    from petl_bench.explain import explain  # noqa: PLC0415 - imports torch
    from petl_bench.profilers.simulated.era import ERAS  # noqa: PLC0415 - likewise

    place = record.environment
    # Libraries' prints would mix with the answer, and their warnings were for who ran the case.
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = explain(record.case, cards.find(place.device), ERAS[place.emulates])
        except (UsageError, KeyError):  # a card, an era or a method that is not known here
            return record
    parts = compose(found.tensors)
    same = total_bytes(parts) == record.measurement.peak_allocated_bytes
    return record.model_copy(update={"at_peak": parts}) if same else record


def with_parts_of_moved(records: Iterable[Record], cases: Iterable[Comparison]) -> list[Record]:
    """`records`, those of the worst cases that moved with what their peaks are made of."""
    moved = [case.case_id for case in cases if case.by_category and case.moves is None]
    worst = set(moved[:MOST_CASES])
    return [with_parts(record) if todays_id(record) in worst else record for record in records]
