"""Real measurements beside simulations of them; where there is no CUDA, visibly skipped."""

import pytest
import torch

from petl_bench import cards, registry
from petl_bench.errors import UsageError
from petl_bench.record import Origin, Phase, Status
from petl_bench.runner import Runner
from petl_bench.store import Store
from petl_bench.suite import Suite

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOLERANCE = 0.10  # PyTorch's own, of its memory tracker against the allocator
PHASES = (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER_STEP)


def this_card():
    """The card that is here, or the default one where it is not known."""
    name = torch.cuda.get_device_name()
    try:
        return cards.of_device(name)
    except UsageError:
        return cards.find(cards.DEFAULT_CARD)


def run(origin, plan, folder):
    records = Runner(origin=origin, card=this_card()).run(plan, Store(folder), ignore)
    return {record.label: record for record in records}


def ignore(planned, done):
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Records by method of t5-small with batch 8: measured, and simulated."""
    plan = Suite(
        methods=registry.names(),
        backbone={"name": ["t5-small"]},
        workload={"batch_size": [8]},
    ).plan()
    folder = tmp_path_factory.mktemp("gpu")
    return tuple(
        run(origin, plan, folder / origin) for origin in (Origin.MEASURED, Origin.SIMULATED)
    )


@pytest.mark.parametrize("method", registry.names())
def test_measured_peaks_lie_within_ten_percent_of_simulated_ones_in_every_phase(both, method):
    measured, simulated = (records[method] for records in both)
    assert (measured.status, measured.reason) == (Status.OK, None)
    assert simulated.status is Status.OK
    ratios = {
        phase: simulated.measurement.peak(phase).peak_allocated_bytes
        / measured.measurement.peak(phase).peak_allocated_bytes
        for phase in PHASES
    }
    assert {phase: ratio for phase, ratio in ratios.items() if abs(ratio - 1) > TOLERANCE} == {}


def test_methods_rank_alike_measured_and_simulated(both):
    measured, simulated = (
        sorted(records, key=lambda label: records[label].measurement.peak_allocated_bytes)
        for records in both
    )
    assert measured == simulated


@pytest.mark.parametrize("method", registry.names())
def test_a_measurement_has_every_number_that_only_a_device_gives(both, method):
    record = both[0][method]
    measurement, workload = record.measurement, record.case.workload
    assert len(measurement.steps) == workload.measured_steps
    assert len(measurement.step_times_s) == workload.timed_steps
    assert record.environment.device == torch.cuda.get_device_name()
    for step in measurement.steps:
        assert list(step) == list(PHASES)
        for memory in step.values():
            assert 0 < memory.peak_requested_bytes <= memory.peak_allocated_bytes
            assert memory.peak_allocated_bytes <= memory.peak_reserved_bytes
            assert memory.elapsed_s > 0
    # None where NVML does not tell processes apart, as in most containers.
    if measurement.device_used_bytes is not None:
        assert measurement.device_used_bytes > measurement.peak_reserved_bytes


@pytest.mark.parametrize("method", registry.names())
def test_measured_and_simulated_count_the_same_parameters(both, method):
    measured, simulated = (records[method].measurement for records in both)
    assert measured.trainable_parameters == simulated.trainable_parameters
    assert measured.total_parameters == simulated.total_parameters


def test_a_case_too_big_for_the_card_tells_what_was_refused_and_the_run_goes_on(tmp_path):
    plan = Suite(
        methods=["full"],
        backbone={"name": ["t5-small"]},
        workload={"batch_size": [20_000, 8]},  # some 50 MiB an example
    ).plan()
    store = Store(tmp_path)
    big, small = Runner(origin=Origin.MEASURED, card=this_card()).run(plan, store, ignore)
    assert big.status is Status.OOM
    assert "out of memory" in big.reason
    assert big.requested_bytes > 0
    assert big.measurement is None
    assert (small.status, small.reason) == (Status.OK, None)
    # What the first case took is not counted against the second.
    alone = run(Origin.MEASURED, plan[1:], tmp_path / "alone")["full"]
    assert small.measurement.peak_allocated_bytes == alone.measurement.peak_allocated_bytes
