"""The executors: real processes, a real Ray cluster, and a Slurm of four shell scripts."""

import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import psutil
import pytest

from petl_bench import api, cards, executors, lane
from petl_bench.environment import simulated_environment
from petl_bench.errors import UsageError
from petl_bench.executors.local import LocalExecutor
from petl_bench.jobs import Answer, Job, Place
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.record import Origin, Status
from petl_bench.runner import ATTEMPTS, Runner, run
from petl_bench.store import Store
from petl_bench.suite import Suite

CARD = cards.find("a100-80gb")
PLACE = Place(origin=Origin.MEASURED, card=CARD.name)
ENVIRONMENT = simulated_environment(CARD)


def ignore(planned, done):
    """Progress that nobody watches."""


def plan_of(methods, tiny):
    return Suite(
        methods=methods, backbone={"name": [str(tiny)]}, workload={"batch_size": [2]}
    ).plan()


def simulated(methods, tiny, folder, executor):
    """Records by label, and the store."""
    store = Store(folder)
    runner = Runner(origin=Origin.SIMULATED, card=CARD, executor=executor)
    records = list(runner.run(plan_of(methods, tiny), store, ignore))
    return {record.label: record for record in records}, store


@pytest.fixture
def processes():
    """Function: those that this process has started since, and they in turn."""
    before = set(psutil.Process().children(recursive=True))
    return lambda: set(psutil.Process().children(recursive=True)) - before


def still_running(started):
    """Of these, those that do not end by themselves; one that nobody has reaped has ended."""
    alive = psutil.wait_procs(started, timeout=8)[1]
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


class NoWorker:
    """What a lane asks of a worker, without a process."""

    def __init__(self, *place):
        pass

    kill = stop = __init__


# --------------------------------------------------------------------------------------------
# Whatever the executor


def test_records_keep_the_order_of_the_plan_and_are_stored_as_they_come(
    tmp_path, tiny, made_up_record, monkeypatch
):
    plan = plan_of(["lora", "bitfit", "lst"], tiny)  # after the baseline
    order = ["lst", "full", "bitfit", "lora"]
    told = {name: Barrier(2) for name in order}  # opened by the progress of the one before

    class PatientWorker(NoWorker):
        def run(self, job):
            told[job.task.label].wait(60)
            return made_up_record(job.task.label)

    shown = []

    def progress(planned, done):
        shown.append((planned.label, done, len(store.records)))
        told[order[done]].wait(60)

    monkeypatch.setattr(lane, "Worker", PatientWorker)
    store = Store(tmp_path)
    with LocalExecutor(len(plan)) as executor:
        runner = Runner(origin=Origin.SIMULATED, card=CARD, executor=executor)
        records = list(runner.run(plan, store, progress))
    assert [record.label for record in records] == ["full", "lora", "bitfit", "lst"]
    assert [record.label for record in store.records] == order
    assert shown == [("full", 0, 0), ("full", 1, 1), ("lora", 2, 2), ("lora", 3, 3)]


def test_any_executor_of_the_standard_interface_will_do(
    tmp_path, tiny, made_up_record, monkeypatch
):
    class QuickWorker(NoWorker):
        def run(self, job):
            return made_up_record(job.task.label)

    monkeypatch.setattr(lane, "Worker", QuickWorker)
    suite = Suite(methods=["lora"], backbone={"name": [str(tiny)]})
    with ThreadPoolExecutor(2) as pool:
        records = api.run(suite, executor=pool, out=tmp_path)
        assert pool.submit(len, "left open").result() == 9
    assert [record.label for record in records] == ["full", "lora"]


@pytest.mark.parametrize("losses", range(ATTEMPTS + 1))
def test_a_lane_that_is_lost_is_followed_by_one_more(tmp_path, tiny, made_up_record, losses):
    asked = []

    class FarAway(ThreadPoolExecutor):
        """Loses its first lanes, as Ray and Slurm do with their machines."""

        def submit(self, _, document):
            asked.append(document)
            if len(asked) <= losses:
                return super().submit(lost)
            return super().submit(Answer(record=made_up_record()).model_dump_json)

    def lost():
        raise lane.WorkerDiedError("its node went away")

    cells = Runner(origin=Origin.SIMULATED, card=CARD).cells(plan_of(["full"], tiny))
    with FarAway(1) as executor:
        (record,) = run(cells, Store(tmp_path), ignore, executor)
    assert len(set(asked)) == 1
    assert len(asked) == min(losses + 1, ATTEMPTS)
    expected = (Status.OK, None) if losses < ATTEMPTS else (Status.ERROR, "its node went away")
    assert (record.status, record.reason) == expected


@pytest.mark.parametrize(
    ("name", "lanes", "said"),
    [
        ("locl", None, "executor: 'locl' is not one of local, ray, slurm"),
        ("local", 0, r"lanes: must be at least 1 \(got 0\)"),
    ],
)
def test_what_there_is_not_is_told(tmp_path, name, lanes, said):
    with pytest.raises(UsageError, match=said):
        executors.start(name, lanes, Origin.SIMULATED, tmp_path)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_extra_that_is_missing_is_named(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"petl_bench.executors.on_{name}", raising=False)
    with pytest.raises(UsageError, match=rf"executor: {name} needs {package}; pip install"):
        executors.start(name, None, Origin.SIMULATED, tmp_path)


def test_gpus_are_looked_for_where_the_workers_are(command, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="needs the extra petl-bench[slurm]")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    place = ["--profiler", "cuda", "--executor", "slurm", "--out", tmp_path / "out"]
    done = command("run", *place)
    assert done.code == 2
    assert done.err == "error: executor: no Slurm here: srun is not on the path\n"
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------
# Here


@pytest.mark.usefixtures("warm_processes")
def test_two_lanes_give_the_bytes_of_one_case_at_a_time_and_leave_nobody_behind(
    tmp_path, tiny, processes
):
    methods = ["full", "lora", "bitfit", "lst"]
    with LocalExecutor(2) as executor:
        records, store = simulated(methods, tiny, tmp_path, executor)
    assert list(records) == methods
    assert Store(store.path.parent).records == store.records
    for planned in plan_of(methods, tiny):
        alone = simulate(planned.case, CARD, ERAS[None])
        assert records[planned.label].measurement == alone
    assert processes() == set()


@pytest.mark.parametrize(
    ("visible", "lanes", "own"),
    [("", None, {"0", "1", "2"}), ("", 2, {"0", "1"}), ("5,GPU-7,6", 9, {"5", "GPU-7", "6"})],
)
def test_a_lane_that_measures_has_a_device_of_its_own(monkeypatch, tmp_path, visible, lanes, own):
    seen = []
    together = Barrier(len(own))

    class OnDevice(NoWorker):
        def __init__(self, origin, variables):
            assert origin is Origin.MEASURED
            seen.append(variables["CUDA_VISIBLE_DEVICES"])
            together.wait(60)

        environment = ENVIRONMENT

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr(lane, "Worker", OnDevice)
    where = Job(place=PLACE).model_dump_json()
    with executors.start("local", lanes, Origin.MEASURED, tmp_path) as executor:
        answers = list(executor.map(lane.run_job, [where] * len(own)))
    assert sorted(seen) == sorted(own)
    assert [Answer.model_validate_json(answer).environment for answer in answers] == [
        ENVIRONMENT
    ] * len(own)


# --------------------------------------------------------------------------------------------
# Ray


@pytest.fixture
def cluster_of_two(fake_methods, monkeypatch, tmp_path):
    """What is started on this machine has two processors, and two GPUs that are made up."""
    del fake_methods  # that Ray's workers, too, are to know
    ray = pytest.importorskip("ray", reason="needs the extra petl-bench[ray]")
    monkeypatch.setattr(ray, "init", partial(ray.init, num_gpus=2))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("ONCE", str(tmp_path / "once"))
    return ray


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning")
def test_ray_runs_cases_and_a_worker_of_its_that_is_killed_is_followed_by_one_more(
    tmp_path, tiny, processes, cluster_of_two, capfd
):
    methods = ["full", "deadly_once", "deadly"]
    with executors.start("ray", 2, Origin.SIMULATED, tmp_path) as executor:
        with executors.start("ray", None, Origin.MEASURED, tmp_path) as measuring:
            assert measuring.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() in {"0", "1"}
            assert measuring._max_workers == 2
        assert executor.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() not in {"0", "1"}
        children = processes()
        records, store = simulated(methods, tiny, tmp_path / "out", executor)
    assert not cluster_of_two.is_initialized()
    assert still_running(children) == []
    assert list(records) == methods
    assert Store(store.path.parent).records == store.records
    assert [record.status for record in records.values()] == ["ok", "ok", "error"]
    assert records["deadly"].reason.startswith("its Ray worker was lost: ")
    for planned in plan_of(["full"], tiny):
        assert records["full"].measurement == simulate(planned.case, CARD, ERAS[None])
    assert capfd.readouterr().out == ""  # which is for results


def test_a_ray_cluster_where_nobody_listens_is_refused_at_once(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs the extra petl-bench[ray]")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused = f"^executor: no Ray cluster at {address}: Connection refused$"
    with pytest.raises(UsageError, match=refused):
        executors.start("ray", 1, Origin.SIMULATED, tmp_path)


# --------------------------------------------------------------------------------------------
# Slurm

SLURM = {
    "sbatch": r"""
        echo "$1" >> "$SLURM_HERE/submitted"
        id=$(wc -l < "$SLURM_HERE/submitted")
        cp "$1" "$SLURM_HERE/$id.sh"
        SLURM_JOB_ID=$id setsid bash "$SLURM_HERE/$id.sh" &> "$SLURM_HERE/$id.log" &
        until kill -0 -- -$! 2> /dev/null; do sleep 0.01; done  # it leads its group
        echo $! > "$SLURM_HERE/$id"
        echo "Submitted batch job $id"
    """,
    # --unbuffered --output FILE --error FILE COMMAND
    "srun": r"""
        shift 5
        export SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
        "$@"
    """,
    "squeue": r"""
        for id in $(ls "$SLURM_HERE" | grep -x "[0-9]*"); do
            kill -0 -- -$(cat "$SLURM_HERE/$id") 2> /dev/null && state=RUNNING || state=NODE_FAIL
            echo "$id $state"
        done
    """,
    "scancel": r"""
        kill -9 -- -$(cat "$SLURM_HERE/$1")
    """,
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm of one node, with submitit before it; jobs are really queued, run and lost."""
    pytest.importorskip("submitit", reason="needs the extra petl-bench[slurm]")
    here = tmp_path / "slurm-here"
    here.mkdir()
    for name, script in SLURM.items():
        (here / name).write_text(f"#!/bin/bash\n{script}")
        (here / name).chmod(0o755)
    monkeypatch.setenv("SLURM_HERE", str(here))
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setattr("petl_bench.executors.on_slurm.QUEUE_S", 0)
    monkeypatch.setattr("petl_bench.executors.on_slurm.LATE_S", 0)
    return here


def test_slurm_runs_a_job_a_case(tmp_path, tiny, slurm):
    with executors.start("slurm", 2, Origin.SIMULATED, tmp_path / "run") as executor:
        records, _ = simulated(["full"], tiny, tmp_path / "run", executor)
    (planned,) = plan_of(["full"], tiny)
    assert records["full"].measurement == simulate(planned.case, CARD, ERAS[None])
    asked = (slurm / "1.sh").read_text()
    assert "#SBATCH --cpus-per-task=1\n" in asked
    assert "gpus" not in asked


def test_a_slurm_job_that_measures_asks_for_a_gpu_and_one_that_is_lost_says_how(tmp_path, slurm):
    with executors.start("slurm", None, Origin.MEASURED, tmp_path / "run") as executor:
        with pytest.raises(
            lane.WorkerDiedError, match=r"^its Slurm job 1 ended as NODE_FAIL \(1_0_log\.err\)$"
        ):
            executor.submit(signal.raise_signal, signal.SIGKILL).result()
        with pytest.raises(UsageError, match=r"^executor: a Slurm job cannot run cases; see /"):
            executor.submit(os.stat, "/no/such/file").result()
    assert "#SBATCH --gpus-per-node=1\n" in (slurm / "1.sh").read_text()


def test_a_slurm_job_that_the_queue_has_forgotten_is_lost(tmp_path, slurm):
    with executors.start("slurm", 1, Origin.SIMULATED, tmp_path / "run") as executor:
        (slurm / "squeue").write_text("#!/bin/bash")
        with pytest.raises(lane.WorkerDiedError, match=r"^its Slurm job 1 left the queue without"):
            executor.submit(signal.raise_signal, signal.SIGKILL).result()


def test_a_slurm_that_does_not_answer_is_refused_at_once(tmp_path, slurm):
    (slurm / "squeue").write_text("#!/bin/bash\necho 'slurm_load_jobs error: no host' >&2; exit 1")
    with pytest.raises(UsageError, match=r"^executor: Slurm does not answer: slurm_load_jobs e"):
        executors.start("slurm", 1, Origin.SIMULATED, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_slurm_that_refuses_a_job_leaves_nothing_behind(tmp_path, tiny, slurm):
    folder = tmp_path / "runs" / "refused"
    (slurm / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: no such account' >&2; exit 1")
    with (
        pytest.raises(UsageError, match=r"^executor: sbatch: sbatch: error: no such account"),
        executors.start("slurm", 2, Origin.SIMULATED, folder) as executor,
    ):
        simulated(["full", "bitfit"], tiny, folder, executor)
    assert not (tmp_path / "runs").exists()


def test_slurm_jobs_are_cancelled_with_the_run(tmp_path, slurm):
    executor = executors.start("slurm", 1, Origin.SIMULATED, tmp_path / "run")
    first, second = (executor.submit(time.sleep, 300) for _ in range(2))
    leader = slurm / "1"
    while not leader.exists() or not leader.read_text():
        time.sleep(0.01)
    job = psutil.Process(int(leader.read_text()))
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    assert isinstance(first.exception(), lane.WorkerDiedError)
    assert second.cancelled()
    assert not (slurm / "2").exists()
    assert still_running([job]) == []
