"""Real workers, on methods that misbehave; one plan for most, since a worker takes seconds."""

import pytest
import torch

from petl_bench import cards, lane, runner
from petl_bench.environment import simulated_environment
from petl_bench.errors import UsageError
from petl_bench.record import Origin, Status
from petl_bench.runner import Runner
from petl_bench.store import FILE_NAME, Store
from petl_bench.suite import Suite

SIMULATED = Runner(origin=Origin.SIMULATED, card=cards.find("a100-80gb"))
# In this order: raising leaves a traceback on stderr that must not explain how killed ends.
BAD_DAY = ["full", "noisy", "unwilling", "raising", "killed", "sleeping", "bitfit", "exiting"]


class CountedWorker(lane.Worker):
    """A worker that remembers, in its class, how many of it there were and still are."""

    started: list = []  # noqa: RUF012 - a fresh subclass a test

    def __init__(self, *place):
        super().__init__(*place)
        self.started.append(self)

    def run(self, job):
        with pytest.MonkeyPatch.context() as patch:
            if job.task.label == "sleeping":
                patch.setattr(lane, "CASE_TIMEOUT_S", 1.0)
            return super().run(job)


class NoWorker:
    """What a lane asks of a worker, without a process."""

    def __init__(self, *place):
        pass

    kill = stop = __init__


def ignore(planned, done):
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def plan_of(methods, tiny):
    return Suite(
        methods=methods, backbone={"name": [str(tiny)]}, workload={"batch_size": [2]}
    ).plan()


@pytest.fixture(scope="module")
def bad_day(fake_methods, tiny, tmp_path_factory, patch, warm):
    """Records of a plan in which almost everything goes wrong, and how it went."""
    del fake_methods
    store = Store(tmp_path_factory.mktemp("bad-day"))
    started, stored = [], []
    patch.setattr(lane, "Worker", type("Counted", (CountedWorker,), {"started": started}))

    def progress(planned, done):
        del planned
        stored.append((done, store.path.read_bytes().count(b"\n")))

    with warm():
        records = list(SIMULATED.run(plan_of(BAD_DAY, tiny), store, progress))
    return {record.label: record for record in records}, store, started, stored


@pytest.mark.slow
def test_every_case_has_a_record_in_the_order_of_the_plan(bad_day):
    records, store, _, _ = bad_day
    assert list(records) == BAD_DAY
    assert Store(store.path.parent).records == store.records
    lost = ["killed", "exiting"]  # asked for again after the others
    as_they_came = [name for name in BAD_DAY if name not in lost] + lost
    assert store.records == [records[name] for name in as_they_came]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        ("full", Status.OK, None),
        ("noisy", Status.OK, None),
        ("unwilling", Status.SKIPPED, "no way with 4 heads"),
        ("raising", Status.ERROR, "RuntimeError: the target was not found"),
        ("killed", Status.ERROR, "the worker was ended by SIGKILL"),
        ("exiting", Status.ERROR, "the worker exited with 3: no licence"),
        ("sleeping", Status.ERROR, "no answer after 1 s; the worker was killed"),
        ("bitfit", Status.OK, None),
    ],
)
def test_a_case_ends_with_its_status_and_its_reason_in_one_line(bad_day, method, status, reason):
    record = bad_day[0][method]
    assert (record.status, record.reason) == (status, reason)
    assert (record.measurement is None) == (status is not Status.OK)


@pytest.mark.slow
def test_a_record_says_where_it_was_made_and_of_which_source(bad_day):
    records = bad_day[0]
    environment = simulated_environment(SIMULATED.card)
    for record in records.values():
        assert record.origin is Origin.SIMULATED
        assert record.case_id == record.case.case_id
        assert record.environment.device == environment.device
        assert record.environment.torch == environment.torch
    fakes = {records[name].method_source_sha256 for name in ("noisy", "killed", "unwilling")}
    assert len(fakes) == 1
    assert records["full"].method_source_sha256 not in fakes


@pytest.mark.slow
def test_a_method_that_prints_has_the_numbers_of_the_one_that_does_not(bad_day):
    records = bad_day[0]
    assert records["noisy"].measurement.steps == records["full"].measurement.steps


@pytest.mark.slow
def test_a_simulating_worker_serves_until_it_dies(bad_day):
    _, _, started, _ = bad_day
    # One until killed, one for sleeping, one until exiting, and one for each of the lost again.
    assert len(started) == 5


@pytest.mark.slow
def test_no_worker_outlives_its_run(bad_day):
    _, _, started, _ = bad_day
    assert [worker for worker in started if worker._process.poll() is None] == []


@pytest.mark.slow
def test_records_are_stored_one_by_one(bad_day):
    _, _, _, stored = bad_day
    assert stored == [(done, done) for done in range(len(BAD_DAY))]


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_what_failed_is(bad_day, tiny, monkeypatch):
    records, store, _, _ = bad_day
    asked = []

    class AskedWorker(NoWorker):
        def run(self, job):
            asked.append(job.task.label)
            return records[job.task.label]

    monkeypatch.setattr(lane, "Worker", AskedWorker)
    # A checkout that changed meanwhile would, rightly, make every case run again.
    here = records["full"].environment
    monkeypatch.setattr(runner, "simulated_environment", lambda *_: here)
    again = Store(store.path.parent)
    list(SIMULATED.run(plan_of(BAD_DAY, tiny), again, ignore))
    assert asked == ["raising", "killed", "sleeping", "exiting"]


@pytest.mark.parametrize("losses", [1, 2])
def test_a_worker_that_is_lost_is_followed_by_one_more(
    tmp_path, made_up_record, monkeypatch, tiny, losses
):
    asked = []

    class LostWorker(NoWorker):
        def run(self, job):
            asked.append((self, job))
            if len(asked) <= losses:
                raise lane.WorkerDiedError("the worker was ended by SIGKILL")
            return made_up_record()

    monkeypatch.setattr(lane, "Worker", LostWorker)
    (record,) = SIMULATED.run(plan_of(["full"], tiny), Store(tmp_path), ignore)
    assert record.status == ("ok" if losses == 1 else "error")
    (first, task), (second, again) = asked
    assert first is not second
    assert task == again


def test_a_plan_that_is_finished_starts_no_worker(tmp_path, tiny, made_up_record, monkeypatch):
    monkeypatch.setattr(lane, "Worker", None)
    (planned,) = plan_of(["full"], tiny)
    store = Store(tmp_path)
    template = made_up_record()
    environment = simulated_environment(SIMULATED.card)
    sha256 = runner.registry.source_sha256(runner.registry.get("full"))
    store.append(
        template.model_copy(
            update={
                "case": planned.case,
                "case_id": planned.case.case_id,
                "environment": environment,
                "method_source_sha256": sha256,
            }
        )
    )
    assert list(SIMULATED.run([planned], store, ignore)) == store.records


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.usefixtures("warm_processes")
def test_a_measuring_worker_that_finds_no_device_is_told_once_and_nothing_is_stored(tmp_path, tiny):
    measuring = Runner(origin=Origin.MEASURED, card=SIMULATED.card)
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="cuda cannot start here: the worker exited with 1") as no:
        list(measuring.run(plan_of(["full"], tiny), store, ignore))
    assert "\n" not in str(no.value)
    assert not (tmp_path / FILE_NAME).exists()
