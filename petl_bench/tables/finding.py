"""A group's key result in one sentence."""

from petl_bench.record import Record
from petl_bench.tables.frame import saving_percent, trainable_percent
from petl_bench.tables.groups import Group, is_baseline
from petl_bench.tables.summaries import percent, share_of_parameters
from petl_bench.units import format_bytes


def finding(group: Group) -> str:
    """The group's key result in one sentence."""
    finished = [
        (record, record.measurement.peak_allocated_bytes)
        for record in group.records
        if record.measurement
    ]
    if not finished:
        return f"No case of {len(group.records)} finished."
    baseline = group.baseline
    rivals = [pair for pair in finished if not is_baseline(pair[0])]
    least, size = min(rivals or finished, key=lambda pair: pair[1])
    needs = f"{least.label} needs {format_bytes(size)} at peak"
    if baseline is None or baseline.measurement is None:
        return f"{needs}, the least of {len(finished)}; full fine-tuning has no numbers here."
    whole = baseline.measurement.peak_allocated_bytes
    if not rivals:
        return f"{needs}; no other method finished."
    if size >= whole:
        return f"No method saves memory: {needs}, full fine-tuning {format_bytes(whole)}."
    return _saving_sentence(least, whole)


def _saving_sentence(record: Record, whole: int) -> str:
    seen = record.measurement
    assert seen is not None
    saved = percent(saving_percent(seen.peak_allocated_bytes, whole) or 0.0)
    size = format_bytes(seen.peak_allocated_bytes)
    share = trainable_percent(seen)
    trained = "" if share is None else f", training {share_of_parameters(share)} of the parameters"
    return (
        f"{record.label} saves most: {size} at peak instead of {format_bytes(whole)},"
        f" {saved} less than full fine-tuning{trained}."
    )
