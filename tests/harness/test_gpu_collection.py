"""Collecting on a GPU, as far as it goes without one: plans, a rehearsal, traces compared."""

import gzip
import importlib.util
import json
import os
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from petl_bench import cards, lane
from petl_bench.assembly import initialisation
from petl_bench.environment import simulated_environment
from petl_bench.errors import UsageError
from petl_bench.jobs import Job, Place, Task
from petl_bench.profilers.simulated.allocator import CachingAllocator
from petl_bench.record import Origin, Phase
from petl_bench.store import load_records
from petl_bench.suite import Suite, load_suite
from petl_bench.units import MIB, format_bytes
from petl_bench.verify import traces
from petl_bench.verify.errors import Counter, verify
from petl_bench.verify.pairs import pair_up
from petl_bench.verify.traces import Allocation

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"
CARD = cards.find("h100")
DEVICE = "NVIDIA H100 80GB HBM3"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


collect = script("collect")


@pytest.fixture
def collected(monkeypatch, capsys):
    """Factory: run collect.sh; its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["collect.sh", *map(str, arguments)])
        code = collect.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


# The plan


def test_every_suite_of_the_folder_has_its_place_in_the_order():
    assert sorted(collect.SUITES) == sorted(path.stem for path in FOLDER.glob("*.toml"))


def test_all_suites_plan_and_every_case_of_them_can_run(collected):
    code, out, err = collected("h100", "--plan")
    assert (code, err) == (0, "")
    assert "will not run" not in out
    *_, total = out.splitlines()
    counts = [len(load_suite(FOLDER / f"{name}.toml").plan()) for name in collect.SUITES]
    assert total == f"{sum(counts)} cases"
    assert not torch.cuda.is_initialized()


def test_a_suite_that_there_is_not_is_refused(collected, capsys):
    with pytest.raises(SystemExit) as left:
        collected("h100", "t5-smal")
    assert left.value.code == 2
    assert "no suite and no file 't5-smal'; suites: t5-small" in capsys.readouterr().err


def test_what_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch):
    installed = script("installed")
    assert installed.missing() is None
    has = installed.has
    monkeypatch.setattr(installed, "has", lambda name: name not in {"plotly", "rich"} and has(name))
    assert installed.missing() == "pip install plotly rich"
    monkeypatch.setattr(installed, "has", lambda name: name != "petl-bench")
    assert installed.missing().startswith("pip install -e .")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_device_nothing_is_collected(collected, tmp_path):
    code, out, err = collected("h100", "t5-3b", "--reference", tmp_path)
    assert (code, out) == (2, "")
    assert err == "needs a CUDA device and there is none; --simulated rehearses\n"
    assert not list(tmp_path.iterdir())


# A rehearsal


@pytest.fixture
def suite(tiny, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'methods = ["full", "lora"]\n[backbone]\nname = "{tiny}"\n[workload]\nbatch_size = 2\n'
    )
    return path


@pytest.mark.usefixtures("warm_processes")
def test_what_is_collected_is_packed_not_run_again_and_can_be_verified(
    collected, suite, tmp_path, monkeypatch
):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    packed = tmp_path / "out" / "h100.tar.xz"
    asked = ["h100", suite, "--simulated", "--reference", tmp_path, "--archive", packed]
    code, out, _ = collected(*asked)
    assert code == 0
    assert "CUBLAS_WORKSPACE_CONFIG is set and changes what is measured: taken out" in out
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert out.endswith(f"{suite}: 2 of 2: 2 ok\n")
    with tarfile.open(packed) as archive:
        assert "h100/tiny/records.jsonl" in archive.getnames()
    file = tmp_path / "h100" / "tiny" / "records.jsonl"
    before = file.read_bytes()
    monkeypatch.setattr(lane, "Worker", None)  # nobody is to be asked
    assert collected(*asked)[0] == 0
    assert file.read_bytes() == before

    # Relabelled as measured, every error is 0 and every order is kept.
    simulated = load_records(file)
    measured = [relabelled(record) for record in simulated]
    verification = verify(pair_up(measured, simulated, {DEVICE: CARD.name}))
    assert verification.summary(Counter.PEAK_ALLOCATED).count == 2
    assert verification.summary(Counter.PEAK_ALLOCATED).worst.error == 0
    assert [ranking.swapped for ranking in verification.rankings] == [()]


def relabelled(record):
    measurement = replace(record.measurement, fit=None, roofline=None)
    place = record.environment.model_copy(update={"device": DEVICE})
    told = {"origin": Origin.MEASURED, "environment": place, "measurement": measurement}
    return record.model_copy(update=told)


# The next worker


class Counted:
    """What a lane asks of a worker, without a process; `log` has what was asked."""

    log: list = []  # noqa: RUF012 - a fresh subclass a test
    environment = simulated_environment(CARD)

    def __init__(self, origin, variables):
        del origin, variables
        self.number = sum(what == "start" for what, _ in self.log)
        self.log.append(("start", self.number))

    def run(self, job):
        self.log.append(("run", self.number))
        return self.records[job.task.label]

    def stop(self):
        self.log.append(("stop", self.number))

    def kill(self):
        """The lane is closing."""


@pytest.mark.parametrize(
    ("processors", "order"),
    [
        (2, "start 0, run 0, stop 0, start 1, run 1, stop 1"),
        (8, "start 0, start 1, run 0, stop 0, start 2, run 1, stop 1, stop 2"),
    ],
)
def test_the_next_worker_starts_while_a_case_is_measured_where_there_are_processors(
    monkeypatch, tiny, made_up_record, processors, order
):
    record = made_up_record(origin=Origin.MEASURED)
    worker = type("Worker", (Counted,), {"log": [], "records": {"full": record}})
    monkeypatch.setattr(lane, "Worker", worker)
    monkeypatch.setattr(lane, "_processors", lambda: processors)
    (planned,) = Suite(methods=["full"], backbone={"name": [str(tiny)]}).plan()
    task = Task(case=planned.case, label="full")
    job = Job(place=Place(origin=Origin.MEASURED, card=CARD.name), task=task)
    here = lane.Lane()
    for _ in range(2):
        assert here.run(job).record == record
    here.close()
    assert ", ".join(f"{what} {number}" for what, number in worker.log) == order


# Traces


@pytest.fixture(scope="module")
def recorded(tiny, tmp_path_factory):
    """The simulation of a case, written down as record_trace.py would have."""
    (planned,) = Suite(
        methods=["full"], backbone={"name": [str(tiny)]}, workload={"batch_size": [2]}
    ).plan()
    requests = traces.simulated_requests(planned.case, CARD)
    path = tmp_path_factory.mktemp("trace") / "trace.json.gz"
    write_trace(path, planned.case, requests)
    return path, planned.case, requests


def write_trace(path, case, requests):
    """Every request of a step with a free at once, through a real allocator's segments."""
    allocator = Recorder()
    phases, count = [], 0
    for phase, asked in requests.items():
        for number, size in enumerate(map(size_of, asked), start=count):
            allocator.serve(number, size)
        phases.append({"step": 0, "phase": phase, "allocations": [count, count + len(asked)]})
        count += len(asked)
    told = {
        "case": case.model_dump(mode="json"),
        "label": "full",
        "environment": {"device": DEVICE},
        "phases": phases,
        "trace": allocator.trace,
    }
    with gzip.open(path, "wt") as file:
        json.dump(told, file)


def size_of(asked):
    return asked.size if isinstance(asked, Allocation) else asked


class Recorder(CachingAllocator):
    """An allocator that notes what it does, as PyTorch's does."""

    def __init__(self):
        super().__init__()
        self.trace = []

    def serve(self, number, size):
        before = self.reserved_bytes
        self.malloc(number, size)
        address = self._blocks[number].address
        if self.reserved_bytes > before:
            self.trace.append(["segment_alloc", address, self.reserved_bytes - before, 0])
        self.trace.append(["alloc", address, size, 0])
        self.trace.append(["free_completed", address, size, 0])
        self.free(number)


def test_a_trace_of_what_is_simulated_has_no_disagreement(recorded):
    path, case, requests = recorded
    trace = traces.load(path)
    assert trace.case == case
    assert list(trace.requests) == [Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER_STEP]
    assert list(traces.disagreements(trace.requests, requests)) == []
    steps, alike, first = traces.replayed(trace)
    assert (steps, first) == (2 * sum(map(len, requests.values())), None)
    assert alike == steps


def test_what_one_side_alone_asks_for_is_told_with_what_came_before(recorded):
    requests = recorded[2]
    ours = list(requests[Phase.BACKWARD])
    sizes = [each.size for each in ours]
    missing = ours.pop(5)
    sizes.insert(20, 12_345)
    found = list(traces.disagreements({Phase.BACKWARD: sizes}, {Phase.BACKWARD: ours}))
    assert [(each.recorded, each.simulated) for each in found] == [
        ((missing.size,), ()),
        ((12_345,), ()),
    ]
    assert found[1].after.size == sizes[19]


def test_the_comparison_names_the_operator_of_what_was_not_recorded(recorded, tmp_path, capsys):
    _, case, requests = recorded
    first, *others = requests[Phase.FORWARD]
    path = tmp_path / "less.json.gz"
    write_trace(path, case, requests | {Phase.FORWARD: others})
    assert script("compare_trace").main([path]) == 1
    out = capsys.readouterr().out
    assert "the simulation differs in 1 places" in out
    told = f"simulated {format_bytes(first.size)} of aten::embedding in encoder.embed_tokens"
    assert f"after the phase's begin:\n    recorded nothing\n    {told}\n" in out


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"{}"), gzip.compress(b"[")],
    ids=["nothing", "text", "an object", "half a list"],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "trace.json.gz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"^trace: .*trace\.json\.gz") as refused:
        traces.load(path)
    assert "\n" not in str(refused.value)


def test_a_traced_phase_knows_how_many_allocations_came_before_it(monkeypatch):
    counts = iter(range(0, 1000, 10))

    def stats():
        counter = next(counts)
        names = ("allocated_bytes", "reserved_bytes", "requested_bytes")
        read = {f"{name}.all.{kind}": MIB for name in names for kind in ("peak", "current")}
        return read | {"allocation.all.allocated": counter}

    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_stats", stats)
    profiler = script("record_trace").TracedProfiler()
    profiler.next_step()
    with profiler.phase(Phase.FORWARD):
        pass
    (told,) = profiler.phases
    assert (told["phase"], told["step"], told["allocations"]) == (Phase.FORWARD, 0, [0, 20])


def test_the_traced_cases_are_small_and_prepare_nothing():
    plan = load_suite(FOLDER / "traces.toml").plan()
    assert [initialisation(each.case) for each in plan] == [None] * len(plan)
