"""Made-up records: plain values, with round numbers that a reader can check by eye."""

import gc
import itertools
import os
import shutil
import sys
from datetime import UTC, datetime

import pytest

from petl_bench.case import Backbone, Case, MethodChoice, Workload
from petl_bench.record import (
    Category,
    Environment,
    Fit,
    Measurement,
    Origin,
    Phase,
    PhaseMemory,
    Record,
    Refusal,
    RooflineEstimate,
    Status,
    TimelinePoint,
)
from petl_bench.units import GIB
from petl_bench.worker import warm_up

from .warm import warm, warm_processes

__all__ = ["warm", "warm_processes"]

# Models are tiny and tests run side by side: threads of one operator would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Libraries have some 400,000 objects that stay: no search for cycles among them, neither while they
# are imported nor, as in a worker, whenever a test has garbage collected.
gc.disable()


def pytest_collection_finish():
    """Leave what is imported by now out of every collection."""
    if "torch" in sys.modules:
        warm_up()
    gc.freeze()
    gc.enable()


def pytest_runtest_logfinish(nodeid):
    """Now and then, likewise what tests have imported and keep: simulations collect, each first."""
    del nodeid
    if next(_finished) % 20 == 0:
        gc.collect()
        gc.freeze()


_finished = itertools.count(1)


def pytest_collection_modifyitems(items):
    """Files with a slow test come first: one that begins last leaves the other processes idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


BACKBONE_PARAMETERS = 200_000_000
STEP_PHASES = (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER_STEP)


def _at_peak(peak_bytes, trainable):
    """Bytes by category that sum to `peak_bytes`: what is left over is activations."""
    found = {
        Category.PARAMETER: 4 * BACKBONE_PARAMETERS,
        Category.BUFFER: 4096,
        Category.GRADIENT: 4 * trainable,
        Category.OPTIMIZER_STATE: 8 * trainable,
        Category.TEMPORARY: peak_bytes // 16,
        Category.INPUT: 131_072,
        Category.WORKSPACE: 8_519_680,
    }
    return {**found, Category.ACTIVATION: peak_bytes - sum(found.values())}


def _timeline(at_peak, events):
    """Activations rise through the forward pass and fall through the backward pass."""
    forward, backward = events * 2 // 5, events * 9 // 10
    points = []
    for event in range(events):
        rising = event < forward
        phase = STEP_PHASES[0] if rising else STEP_PHASES[1 if event < backward else 2]
        if rising:
            share = event / forward
        else:
            share = max(0.0, 1 - (event - forward) / (backward - forward))
        now = {
            **at_peak,
            Category.ACTIVATION: int(at_peak[Category.ACTIVATION] * share),
            Category.GRADIENT: 0 if rising else int(at_peak[Category.GRADIENT] * (1 - share)),
            Category.TEMPORARY: at_peak[Category.TEMPORARY] * (event % 7) // 6,
        }
        points.append(TimelinePoint(event=event, phase=phase, by_category=now))
    return tuple(points)


def _memory(peak_bytes, by_category=None, elapsed_s=None):
    return PhaseMemory(
        peak_allocated_bytes=peak_bytes,
        peak_reserved_bytes=peak_bytes + GIB // 4,
        end_allocated_bytes=peak_bytes,
        by_category=by_category,
        elapsed_s=elapsed_s,
    )


def _measurement(
    peak_bytes, trainable, origin, *, attributed, events, samples_per_s, batch_size, fit
):
    at_peak = _at_peak(peak_bytes, trainable)
    steps = {
        Phase.FORWARD: _memory(peak_bytes * 3 // 4),
        Phase.BACKWARD: _memory(peak_bytes, at_peak if attributed else None),
        Phase.OPTIMIZER_STEP: _memory(peak_bytes // 2),
    }
    step_s = None if samples_per_s is None else batch_size / samples_per_s
    measured = origin is Origin.MEASURED
    return Measurement(
        total_parameters=BACKBONE_PARAMETERS + trainable,
        backbone_parameters=BACKBONE_PARAMETERS,
        trainable_parameters=trainable,
        load=_memory(4 * BACKBONE_PARAMETERS),
        steps=(steps, steps),
        flops_per_step=12_300_000_000_000,
        step_times_s=(step_s, step_s, 3 * step_s) if step_s and measured else None,
        roofline=None
        if step_s is None or measured
        else RooflineEstimate(
            card="a100-80gb",
            step_s=step_s,
            compute_bound_s=step_s / 2,
            memory_bound_s=step_s / 4,
            launch_bound_s=step_s / 4,
        ),
        fit=fit,
        timeline=_timeline(at_peak, events) if events else (),
    )


def _record(
    method="full",
    *,
    label=None,
    peak_bytes=10 * GIB,
    trainable=BACKBONE_PARAMETERS,
    origin=Origin.SIMULATED,
    device=None,
    backbone="t5-base",
    workload=None,
    status=Status.OK,
    reason=None,
    requested_bytes=None,
    attributed=True,
    events=50,
    samples_per_s=200.0,
    fit=None,
):
    """A record of a made-up run; every number follows from the arguments."""
    workload = workload or Workload()
    case = Case(
        backbone=Backbone(name=backbone, family="t5", config={"d_model": 768}),
        method=MethodChoice(name=method, config={"r": 8}),
        workload=workload,
    )
    measured = origin is Origin.MEASURED
    return Record(
        case_id=case.case_id,
        case=case,
        label=label or method,
        origin=origin,
        status=status,
        reason=reason,
        requested_bytes=requested_bytes,
        environment=Environment(
            device=device or ("NVIDIA A100-SXM4-80GB" if measured else "a100-80gb"),
            platform="Linux",
            python="3.12.1",
            torch="2.13.0",
            transformers="5.23.0",
            peft="0.21.0",
            petl_bench="0.1.0",
            cuda="13.0" if measured else None,
            device_total_bytes=80 * GIB,
        ),
        measurement=_measurement(
            peak_bytes,
            trainable,
            origin,
            attributed=attributed,
            events=events,
            samples_per_s=samples_per_s,
            batch_size=workload.batch_size,
            fit=fit,
        )
        if status is Status.OK
        else None,
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


_METHODS = [  # label, peak in GiB, trainable parameters, samples/s
    ("full", 17.6, 200_000_000, 180.0),
    ("lora[r=8]", 12.6, 885_000, 231.0),
    ("adapters", 13.0, 4_700_000, 226.0),
    ("bitfit", 11.5, 280_000, 240.0),
    ("lst", 5.5, 3_900_000, 301.0),
    ("prompt_tuning", 12.9, 77_000, 205.0),
    ("ia3", 12.4, 110_000, 236.0),
    ("lora[r=64]", 12.8, 7_080_000, 228.0),
    ("compacter", 12.9, 150_000, 210.0),
    ("prefix_tuning", 13.3, 3_700_000, 221.0),
    ("p_tuning", 13.1, 230_000, 206.0),
    ("lst[reduction_factor=4]", 6.4, 15_000_000, 268.0),
    ("dora[r=8]", 14.9, 970_000, 160.0),
    ("vera", 12.55, 65_000, 229.0),
]


@pytest.fixture(scope="session")
def made_up_record():
    """Factory of one record."""
    return _record


def _refused(operator="aten::mm", phase=Phase.BACKWARD, category=Category.GRADIENT):
    """What a case has that 10 GiB are too few for."""
    refusal = Refusal(
        requested_bytes=2 * GIB,
        phase=phase,
        category=category,
        operator=operator,
        allocated_bytes=8 * GIB,
        reserved_bytes=9 * GIB,
    )
    return Fit(capacity_bytes=10 * GIB, refusal=refusal)


@pytest.fixture
def refused():
    """Factory of the `fit` of a case that is too large for its card."""
    return _refused


@pytest.fixture
def made_up_records():
    """Factory of the records of the first `count` of fourteen methods; options go to each."""

    def make(count=6, **options):
        return [
            _record(
                label.partition("[")[0],
                label=label,
                peak_bytes=int(peak_gib * GIB),
                trainable=trainable,
                **{"samples_per_s": samples_per_s, **options},
            )
            for label, peak_gib, trainable, samples_per_s in _METHODS[:count]
        ]

    return make


# --- a browser: tests are skipped, visibly, where playwright or Chromium is missing --------------


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("needs chromium on the path")
    quiet = ["background-networking", "component-update", "sync"]
    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
    arguments += [f"--disable-{name}" for name in quiet]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tab(chromium):
    """One page for all, since a new one compiles plotly anew, which takes two seconds."""
    return _heard(chromium.new_page())


def _placed(path, place):
    """Copy a page to `place`: at the same address and line its plotly is known by now."""
    before, script, after = path.read_text(encoding="utf-8").partition("\n<script>")
    blank = "\n" * (100_000 - before.count("\n"))
    place.write_text(f"{before}{blank}{script}{after}", encoding="utf-8")
    return place


def _heard(page):
    """`page`, whose `complaints` are its console errors and network requests."""
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda said: page.complaints.append(said.text))
    page.on("request", lambda request: page.complaints.append(request.url))
    return page


@pytest.fixture
def open_page(chromium, tab, tmp_path_factory):
    """Opens a file; `device` is what only a browser context of its own can pretend."""
    contexts = []

    def open_page(path, *, width=1200, height=900, color_scheme="light", **device):
        page = tab
        if device:
            contexts.append(chromium.new_context(**device))
            page = _heard(contexts[-1].new_page())
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=color_scheme)
        page.mouse.move(0, 0)
        page.complaints.clear()
        page.goto(_placed(path, tmp_path_factory.getbasetemp() / "opened.html").as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn)"
        )
        page.complaints = [each for each in page.complaints if not each.startswith("file:")]
        return page

    yield open_page
    tab.goto("about:blank")
    for context in contexts:
        context.close()
