"""What lives at the peak: every tensor, what made it and where, found by a simulation."""

from bisect import bisect_left

from petl_bench.assembly import Trainee, assemble, unsupported
from petl_bench.cards import Card
from petl_bench.case import Case
from petl_bench.errors import UsageError
from petl_bench.explanation import (
    Band,
    Explanation,
    LiveTensor,
    Moment,
    StepTimeline,
    collapsed,
    totals,
)
from petl_bench.profilers.simulated.accounting import Life
from petl_bench.profilers.simulated.era import ERAS, Era
from petl_bench.profilers.simulated.ledger import LOADED, Ledger
from petl_bench.profilers.simulated.profiler import META, blocks_at_peak, lives, run_ledger
from petl_bench.profilers.simulated.provenance import Provenance
from petl_bench.record import Category

MODEL = "(model)"
NO_SOURCE = ""
_OUTSIDE = {Category.INPUT: "(batch)", Category.WORKSPACE: "(library)"}
_BANDS_IN_A_PEAK = 400  # a band that is lower than this part of the peak is not to be seen
_ELSEWHERE = "(training step)"  # the optimizer, clipping


def explain(case: Case, card: Card, era: Era = ERAS[None], *, label: str = "") -> Explanation:
    """What is alive at the peak that `simulate` finds for the same case.

    Raises:
        UsageError: the method does not go with the backbone.
    """
    return explain_step(case, card, era, label=label, bands=0)[0]


def explain_step(
    case: Case, card: Card, era: Era = ERAS[None], *, label: str = "", bands: int = 200
) -> tuple[Explanation, StepTimeline]:
    """The same, and the step that has this peak, with a number of tensors told apart as bands.

    Raises:
        UsageError: the method does not go with the backbone.
    """
    label = label or case.method.name
    trainee = _assemble(case, label)
    with Provenance(trainee) as provenance:
        ledger = run_ledger(case, trainee, card, era, provenance)
    phase, blocks = blocks_at_peak(ledger, case.workload)
    found = (live_tensor(index, size, ledger, provenance) for index, size in blocks.items())
    tensors = tuple(sorted(found, key=lambda tensor: -tensor.allocated_bytes))
    explanation = Explanation(
        case=case,
        label=label,
        device=card.name,
        emulates=era.name,
        phase=phase,
        peak_allocated_bytes=sum(blocks.values()),
        by_category=totals(tensors, lambda tensor: tensor.category),
        by_module=totals(tensors, lambda tensor: collapsed(tensor.module)),
        by_operator=totals(tensors, lambda tensor: tensor.operator),
        by_source=totals(tensors, lambda tensor: tensor.source),
        tensors=tensors,
    )
    return explanation, _timeline(label, ledger, case, provenance, bands)


def _timeline(
    label: str, ledger: Ledger, case: Case, provenance: Provenance, count: int
) -> StepTimeline:
    found, points = lives(ledger, case.workload)
    moments = [point.event for point in points]

    def alive(life: Life) -> range:
        """The moments at which it is there."""
        stop = len(moments) if life.died is None else bisect_left(moments, life.died)
        return range(bisect_left(moments, life.born), stop)

    found.sort(key=lambda life: (-life.block_bytes * len(alive(life)), life.born, life.index))
    visible = max(point.allocated_bytes for point in points) // _BANDS_IN_A_PEAK
    largest = [life for life in found[:count] if alive(life) and life.block_bytes > visible]
    rest = [dict(point.by_category) for point in points]
    for life in largest:
        category = ledger.categories[life.index]
        for place in alive(life):
            rest[place][category] -= life.block_bytes
    return StepTimeline(
        label=label,
        moments=tuple(
            Moment(event=point.event, phase=point.phase, rest=left)
            for point, left in zip(points, rest, strict=True)
        ),
        bands=tuple(
            Band(
                tensor=live_tensor(life.index, life.block_bytes, ledger, provenance),
                born=life.born,
                died=life.died,
            )
            for life in largest
        ),
        tensors=len(found),
    )


def _assemble(case: Case, label: str) -> Trainee:
    reason = unsupported(case)
    if reason:
        raise UsageError(f"{label}: {reason}")
    try:
        return assemble(case, META)
    except ValueError as error:  # attach's, which names what it did not find
        raise UsageError(str(error)) from None


def live_tensor(index: int, size: int, ledger: Ledger, provenance: Provenance) -> LiveTensor:
    """Storage `index` of a ledger that `provenance` has seen, `size` bytes large."""
    category = ledger.categories[index]
    site = provenance.sites[ledger.sites[index]]
    module, name = provenance.names.get(index, (site.module, None))
    if category in _OUTSIDE:
        module = _OUTSIDE[category]
    operator = ledger.operators[index]
    return LiveTensor(
        allocated_bytes=size,
        category=category,
        module=MODEL if module == "" else module or _ELSEWHERE,
        operator=operator,
        source=NO_SOURCE if operator == LOADED or site.source is None else site.source,
        in_backward=site.in_backward,
        name=name,
    )
