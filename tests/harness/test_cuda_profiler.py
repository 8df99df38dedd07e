"""All of the measuring profiler on a CPU; what stands for torch.cuda takes notes."""

import itertools
import json
from types import SimpleNamespace

import pynvml
import pytest
import torch

from petl_bench import backbones, cards, environment, registry
from petl_bench.case import Case, Workload
from petl_bench.errors import OutOfMemoryError
from petl_bench.jobs import Task
from petl_bench.method_spec import parse_specs
from petl_bench.profilers import cuda
from petl_bench.record import Origin, Phase, Status
from petl_bench.units import MIB
from petl_bench.worker import run_task

WORKLOAD = Workload(
    batch_size=2,
    source_length_tokens=5,
    target_length_tokens=3,
    warmup_steps=2,
    measured_steps=3,
    timed_steps=4,
)
PHASES = [Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER_STEP]
PROFILED_PHASE = ["synchronize", "reset_peak_memory_stats", "body", "synchronize", "memory_stats"]


class FakeCuda:
    """What torch.cuda was asked, in order, and the counters that it gave away."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.observers = []
        for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, self._noting(name))
        monkeypatch.setattr(torch.cuda, "memory_stats", self._memory_stats)
        monkeypatch.setattr(torch.cuda, "Event", self._make_event)
        monkeypatch.setattr(
            torch._C,
            "_cuda_attach_out_of_memory_observer",
            self.observers.append,
            raising=False,
        )
        monkeypatch.setattr(cuda, "_device", lambda: torch.device("cpu"))
        monkeypatch.setattr(cuda, "device_used_bytes", self._used)

        real = {name: getattr(cuda, name) for name in ("Step", "assemble", "make_batch")}

        class Step(real["Step"]):
            def run(step, batch, profiler):  # noqa: N805 - `self` is the fake
                self.calls.append(f"step with {type(profiler).__name__}")
                super().run(batch, _Noting(profiler, self))

        def assemble(case, device):
            self.calls.append("assemble")
            return real["assemble"](case, device)

        def make_batch(case, device):
            self.calls.append("make_batch")
            return real["make_batch"](case, device)

        for name, fake in (
            ("Step", Step),
            ("assemble", assemble),
            ("make_batch", make_batch),
        ):
            monkeypatch.setattr(cuda, name, fake)

    def _noting(self, name):
        return lambda: self.calls.append(name)

    def _memory_stats(self):
        self.calls.append("memory_stats")
        return counters(self.calls.count("memory_stats"))

    def _used(self, device):
        assert device == torch.device("cpu")
        self.calls.append("device_used_bytes")
        return 1000 * self.calls.count("device_used_bytes")

    def _make_event(self, *, enable_timing):
        assert enable_timing
        return _Event(self)


class _Noting:
    """A profiler around another, which notes what runs inside a phase."""

    def __init__(self, profiler, fake):
        self._profiler, self._fake = profiler, fake

    def phase(self, phase):
        inner, calls = self._profiler.phase(phase), self._fake.calls

        class Context:
            def __enter__(self):
                inner.__enter__()
                calls.append("body")

            def __exit__(self, *error):
                return inner.__exit__(*error)

        return Context()


class _Event:
    """Recorded 7 ms after the one before."""

    def __init__(self, fake):
        self._fake = fake
        self.recorded_at_ms = None

    def record(self):
        self._fake.calls.append("event")
        self.recorded_at_ms = 7 * self._fake.calls.count("event")

    def elapsed_time(self, later):
        assert "synchronize" in self._fake.calls[-1:], "times are read after a synchronize"
        return float(later.recorded_at_ms - self.recorded_at_ms)


def counters(reading):
    """Counters of which no two are alike, in one reading or in two."""
    kinds = ("allocated_bytes", "reserved_bytes", "active_bytes", "requested_bytes")
    names = [
        f"{kind}.{pool}.{metric}"
        for kind, pool, metric in itertools.product(
            kinds, ("all", "small_pool", "large_pool"), ("current", "peak", "allocated", "freed")
        )
    ]
    return {name: 1000 * reading + number for number, name in enumerate(names)}


@pytest.fixture
def fake(monkeypatch):
    return FakeCuda(monkeypatch)


@pytest.fixture
def make_case(tiny):
    def make(method="lora"):
        ((_, choice),) = parse_specs(method)
        return Case(backbone=backbones.find(str(tiny)), method=choice, workload=WORKLOAD)

    return make


def runs_between(calls, first, last):
    return calls[calls.index(first) : len(calls) - calls[::-1].index(last)]


def test_a_phase_waits_resets_runs_waits_and_reads_in_this_order(fake):
    profiler = cuda.CudaProfiler()
    profiler.next_step()
    with profiler.phase(Phase.FORWARD):
        fake.calls.append("body")
    assert fake.calls == PROFILED_PHASE
    assert list(profiler.steps[0]) == [Phase.FORWARD]


def test_the_bytes_of_a_phase_come_from_the_counters_that_bear_their_name(fake):
    profiler = cuda.CudaProfiler()
    profiler.next_step()
    with profiler.phase(Phase.BACKWARD):
        pass
    memory, told = profiler.steps[0][Phase.BACKWARD], counters(fake.calls.count("memory_stats"))
    assert memory.peak_allocated_bytes == told["allocated_bytes.all.peak"]
    assert memory.peak_reserved_bytes == told["reserved_bytes.all.peak"]
    assert memory.end_allocated_bytes == told["allocated_bytes.all.current"]
    assert memory.peak_requested_bytes == told["requested_bytes.all.peak"]
    assert memory.by_category is None
    assert memory.elapsed_s >= 0


def test_a_phase_that_fails_leaves_no_number(fake):
    del fake
    profiler = cuda.CudaProfiler()
    profiler.next_step()
    with pytest.raises(RuntimeError, match="refused"), profiler.phase(Phase.FORWARD):
        raise RuntimeError("refused")
    assert profiler.steps == [{}]


def test_loading_is_counted_from_an_empty_cache_and_leaves_one_behind(fake, make_case):
    cuda.measure(make_case())
    emptied = ["synchronize", "empty_cache", "reset_peak_memory_stats"]
    load = runs_between(fake.calls, "device_used_bytes", "make_batch")
    load = load[: load.index("make_batch") + 1]
    assert load == [
        "device_used_bytes",
        *emptied,
        "assemble",
        "synchronize",
        "memory_stats",
        *emptied,
        "make_batch",
    ]


def test_the_context_is_there_before_its_size_is_read(fake, make_case):
    cuda.measure(make_case())
    assert fake.calls[:2] == ["synchronize", "device_used_bytes"]


@pytest.mark.parametrize("method", registry.names())
def test_a_measurement_has_the_measured_steps_with_all_phases_and_no_warm_up(
    fake, make_case, method
):
    measurement = cuda.measure(make_case(method))
    assert len(measurement.steps) == WORKLOAD.measured_steps
    assert [list(step) for step in measurement.steps] == [PHASES] * WORKLOAD.measured_steps
    # The first reading is of loading, then come the warm-up's.
    readings = itertools.count(2 + len(PHASES) * WORKLOAD.warmup_steps)
    for step in measurement.steps:
        for memory in step.values():
            told = counters(next(readings))
            assert memory.peak_allocated_bytes == told["allocated_bytes.all.peak"]
    assert fake.calls.count("memory_stats") == next(readings) - 1
    assert measurement.load.peak_allocated_bytes == counters(1)["allocated_bytes.all.peak"]


def test_each_profiled_phase_of_each_step_keeps_the_order(fake, make_case):
    cuda.measure(make_case())
    steps = WORKLOAD.warmup_steps + WORKLOAD.measured_steps
    one_step = ["step with CudaProfiler", *PROFILED_PHASE * len(PHASES)]
    start = fake.calls.index("step with CudaProfiler")
    assert fake.calls[start : start + steps * len(one_step)] == one_step * steps
    assert fake.calls.count("step with CudaProfiler") == steps


def test_the_timed_pass_runs_without_a_profiler_and_without_waiting(fake, make_case):
    measurement = cuda.measure(make_case())
    one_step = ["step with NoProfiler", *["body"] * len(PHASES), "event"]
    timed = runs_between(fake.calls, "event", "event")
    assert timed == ["event", *one_step * WORKLOAD.timed_steps]
    after = len(fake.calls) - fake.calls[::-1].index("event")
    assert fake.calls[after] == "synchronize"
    assert len(measurement.step_times_s) == WORKLOAD.timed_steps


def test_milliseconds_of_events_become_seconds(fake, make_case):
    del fake
    assert cuda.measure(make_case()).step_times_s == (0.007,) * WORKLOAD.timed_steps


def test_the_memory_of_the_process_is_read_before_the_first_tensor_and_after_the_last_step(
    fake, make_case
):
    measurement = cuda.measure(make_case())
    assert (measurement.context_bytes, measurement.device_used_bytes) == (1000, 2000)
    first = fake.calls.index("device_used_bytes")
    second = fake.calls.index("device_used_bytes", first + 1)
    assert "assemble" not in fake.calls[:first]
    assert "step with CudaProfiler" not in fake.calls[second:]
    assert "step with NoProfiler" not in fake.calls[:second]


def test_counts_and_flops_are_those_of_the_simulation(fake, make_case):
    from petl_bench.profilers.simulated.profiler import simulate

    del fake
    measured = cuda.measure(make_case())
    simulated = simulate(make_case(), cards.find(cards.DEFAULT_CARD))
    for name in (
        "total_parameters",
        "backbone_parameters",
        "trainable_parameters",
        "flops_per_step",
    ):
        assert getattr(measured, name) == getattr(simulated, name), name


# --------------------------------------------------------------------------------------------
# Out of memory


REFUSAL = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.78 GiB of"
    " which 11.19 MiB is free. Process 1 has 15.76 GiB memory in use.\nSee documentation."
)


@pytest.fixture
def full_device(fake, monkeypatch):
    """A device that refuses 2 MiB, which torch retries, then 20 MiB in backward."""

    def refuse(*_):
        for requested in (2 * MIB, 20 * MIB):
            fake.observers[-1](0, requested, 16 * 2**30, 11 * MIB)
        raise torch.OutOfMemoryError(REFUSAL)

    monkeypatch.setattr(torch.Tensor, "backward", refuse)


@pytest.mark.usefixtures("full_device")
def test_what_torch_could_not_allocate_is_told_with_the_bytes_that_were_refused_last(make_case):
    with pytest.raises(OutOfMemoryError) as refused:
        cuda.measure(make_case())
    assert refused.value.requested_bytes == 20 * MIB
    assert str(refused.value) == "CUDA out of memory. Tried to allocate 20.00 MiB"


def test_a_refusal_that_nobody_observed_has_no_bytes(fake, make_case, monkeypatch):
    del fake

    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA error: out of memory")

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    with pytest.raises(OutOfMemoryError, match="CUDA error: out of memory") as refused:
        cuda.measure(make_case())
    assert refused.value.requested_bytes is None


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_memory_that_a_library_of_cudas_was_refused_is_out_of_memory_too(
    fake, make_case, monkeypatch, said
):
    del fake

    def refuse(*_):
        raise RuntimeError(said)

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    with pytest.raises(OutOfMemoryError) as refused:
        cuda.measure(make_case())
    assert str(refused.value) == said.splitlines()[0]
    assert refused.value.requested_bytes is None


def test_any_other_error_of_the_device_is_an_error(fake, make_case, monkeypatch):
    del fake

    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.Tensor, "backward", fail)
    with pytest.raises(RuntimeError, match="illegal memory access") as failed:
        cuda.measure(make_case())
    assert not isinstance(failed.value, OutOfMemoryError)


@pytest.mark.usefixtures("full_device")
def test_the_worker_makes_a_record_of_what_did_not_fit(make_case, made_up_record):
    place = made_up_record(origin=Origin.MEASURED).environment
    task = Task(case=make_case(), label="lora")
    record = run_task(task, Origin.MEASURED, cards.find(cards.DEFAULT_CARD), place)
    assert (record.status, record.requested_bytes) == (Status.OOM, 20 * MIB)
    assert record.reason == "CUDA out of memory. Tried to allocate 20.00 MiB"
    assert record.measurement is None


def test_the_worker_makes_a_record_of_what_was_measured(fake, make_case, made_up_record):
    del fake
    place = made_up_record(origin=Origin.MEASURED).environment
    task = Task(case=make_case(), label="lora")
    record = run_task(task, Origin.MEASURED, cards.find(cards.DEFAULT_CARD), place)
    assert (record.status, record.reason, record.origin) == (Status.OK, None, Origin.MEASURED)
    assert record.environment == place
    assert record.measurement.roofline is None
    assert json.loads(record.model_dump_json())["measurement"]["step_times_s"]


# --------------------------------------------------------------------------------------------
# NVML


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        AssertionError("sdpa_flop_count: query/key/value shapes are incompatible"),
    ],
)
def test_a_step_whose_flops_cannot_be_counted_is_measured(make_case, monkeypatch, error):
    run = cuda.Step.run

    def refuse_under_a_mode(*args):
        if torch.utils._python_dispatch.is_in_torch_dispatch_mode():
            raise error
        run(*args)

    monkeypatch.setattr(cuda.Step, "run", refuse_under_a_mode)
    measurement = cuda.measure(make_case())
    assert measurement.flops_per_step is None
    assert len(measurement.step_times_s) == WORKLOAD.timed_steps


@pytest.fixture
def nvml(monkeypatch):
    """NVML with two processes on the device that torch calls "uuid-of-torch"."""
    fake = SimpleNamespace(calls=[], processes=[process(1, 10), process(2, 20)])

    def by_uuid(uuid):
        fake.calls.append(uuid)
        return "handle"

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: fake.calls.append("init"))
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: fake.calls.append("shutdown"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid)
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: fake.processes * bool(handle)
    )
    properties = SimpleNamespace(uuid="uuid-of-torch", name="NVIDIA H100", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda.os, "getpid", lambda: 2)
    return fake


def process(pid, used):
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


def refusing(code):
    def refuse(*_):
        raise pynvml.NVMLError(code)

    return refuse


CPU = torch.device("cpu")


def test_the_bytes_of_this_process_are_those_that_nvml_lists_under_its_id(nvml):
    assert cuda.device_used_bytes(CPU) == 20
    assert nvml.calls == ["init", "GPU-uuid-of-torch", "shutdown"]


@pytest.mark.parametrize("processes", [[], [process(1, 10), process(3, 30)], [process(2, None)]])
def test_a_process_that_nvml_does_not_list_has_no_bytes_and_not_somebody_elses(nvml, processes):
    nvml.processes = processes
    assert cuda.device_used_bytes(CPU) is None


def test_a_device_that_nvml_does_not_know_has_no_bytes(nvml, monkeypatch):
    code = pynvml.NVML_ERROR_NOT_FOUND
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", refusing(code))
    assert cuda.device_used_bytes(CPU) is None
    assert nvml.calls == ["init", "shutdown"]


def test_a_machine_without_nvml_still_measures(nvml, monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", refusing(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert cuda.device_used_bytes(CPU) is None
    assert environment.measured_environment().driver is None
    assert nvml.calls == []


def test_the_environment_names_device_and_driver(nvml, monkeypatch):
    del nvml
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "570.1")
    place = environment.measured_environment()
    assert (place.device, place.driver) == ("NVIDIA H100", "570.1")
    assert place.device_total_bytes == 80 * 2**30
    assert place.emulates is None
