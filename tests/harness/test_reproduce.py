"""petl-bench reproduce on a tiny paper: outputs, resuming, a kill, measured records."""

import csv
import json
import os
import signal
import time
from functools import partial

import psutil
import pytest

from petl_bench.record import load_record
from petl_bench.store import FILE_NAME

pytestmark = pytest.mark.usefixtures("warm_processes")

PAPER = """
title = "A tiny paper"
source = "Nobody 2022"
url = "https://example.org/?a=1&b=<2>"
setting = "a desk"
memory_unit = "1000 MiB"
emulate = "torch-1.10"

[provenance]
recalled = "made up"

[[claims]]
text = "the side network saves most"
relation = "saving_percent"
table = "table-1"
column = "memory"
row = "side"
baseline = "full"
published = 1
provenance = "recalled"
at_least = true

[[drawings]]
name = "against-score"
kind = "scores"
table = "table-1"
column = "memory"
title = "Memory against score"

[[drawings]]
name = "bars"
kind = "bars"
table = "table-1"
column = "memory"
title = "Bars"

[[drawings]]
name = "sweep"
kind = "sweep"
table = "table-1"
column = "memory"
title = "Sweep"

[[tables]]
name = "table-1"
title = "Table 1"
provenance = "recalled"
backbone = {{ name = "{tiny}" }}
workload = {{ batch_size = 2, source_length_tokens = 8 }}
columns = [{{ name = "memory", header = "memory", quantity = "peak_memory" }}]

[[tables.rows]]
name = "full"
label = "Full & <all>"
method = "full"
published = {{ memory = 0.01 }}
average = 80.0

[[tables.rows]]
name = "side"
label = "Side, 1 kept"
series = "Side"
method = "lst[keep=1]"
published = {{ memory = 0.01 }}
average = 81.0

[[tables.rows]]
name = "unknown"
label = "Nobody's"
method = "nobodys"
published = {{ memory = 3.0 }}
"""


@pytest.fixture
def paper(tmp_path, tiny):
    path = tmp_path / "tiny-paper.toml"
    path.write_text(PAPER.format(tiny=tiny))
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def lines(path):
    """Lines that end, as bytes."""
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


@pytest.mark.slow
def test_a_paper_is_run_in_its_era_and_todays_and_written_down_and_goes_on(
    paper, out, command, tmp_path
):
    ended = command("reproduce", paper, "--out", out, "--profiler", "simulated")
    assert ended.code == 0, ended.err
    assert "numbers: 1 of 1 simulated as torch-1.10, 1 of 1 simulated today." in ended.out
    assert "not runnable here: Table 1: memory (Nobody's): method: no method 'nobodys'" in ended.out
    records = [json.loads(line) for line in lines(out / FILE_NAME)]
    eras = {(record["label"], record["environment"]["emulates"]) for record in records}
    assert eras == {(m, e) for m in ("full", "lst[keep=1]") for e in (None, "torch-1.10")}
    assert {record["environment"]["device"] for record in records} == {"a6000"}
    assert all(record["measurement"]["timeline"] == [] for record in records)

    with (out / "tables.csv").open(newline="") as file:
        full, side, unknown = csv.DictReader(file)
    peak = next(
        load_record(record).measurement.peak_allocated_bytes
        for record in records
        if (record["label"], record["environment"]["emulates"]) == ("full", "torch-1.10")
    )
    assert int(full["emulated_peak_allocated_bytes"]) == peak
    assert float(full["emulated"]) == pytest.approx(peak / (1000 * 2**20))
    assert float(full["published"]) == 0.01
    assert float(side["emulated"]) < float(full["emulated"])
    assert float(side["today"]) < float(full["today"])
    assert unknown["refusal"].startswith("method: no method 'nobodys'")

    for name in ("against-score", "bars", "sweep"):
        for suffix in ("png", "svg"):
            assert (out / "figures" / f"{name}.{suffix}").stat().st_size > 1000
    page = (out / "report.html").read_text()
    assert "Full &amp; &lt;all&gt;" in page
    assert "Full & <all>" not in page
    assert page.count("<svg") == 3
    assert "https://example.org/?a=1&amp;b=&lt;2&gt;" in page
    tables = (out / "tables.md").read_text()
    assert "recalled: made up" in tables
    assert f"`petl-bench reproduce {paper} --out {out} --profiler simulated`" in tables

    before = (out / FILE_NAME).read_bytes()
    measured = tmp_path / "measured.jsonl"
    measured.write_text(json.dumps(as_measured(records, "full")) + "\n")
    again = command(
        "reproduce", paper, "--out", out, "--profiler", "simulated", "--measured", measured
    )
    assert again.code == 0, again.err
    assert (out / FILE_NAME).read_bytes() == before  # nothing was run again
    with (out / "tables.csv").open(newline="") as file:
        full, side, _ = csv.DictReader(file)
    assert full["measured_device"] == "a card"
    assert int(full["measured_peak_allocated_bytes"]) > 0
    assert side["measured"] == ""


def as_measured(records, label):
    """Today's simulated record of `label` as if a card had given it."""
    record = next(
        r for r in records if r["label"] == label and r["environment"]["emulates"] is None
    )
    record["origin"] = "measured"
    record["environment"]["device"] = "a card"
    record["measurement"] |= {"fit": None, "roofline": None}
    return record


@pytest.fixture
def start(tmp_path, tiny, out, fake_package, start_command):
    """Factory: a reproduction whose second case sleeps, as a process in a group of its own."""
    paper = tmp_path / "sleepy.toml"
    sleepy = PAPER.replace('method = "lst[keep=1]"', 'method = "sleeping"')
    paper.write_text(sleepy.format(tiny=tiny))
    arguments = ["reproduce", paper, "--out", out, "--profiler", "simulated"]
    return partial(start_command, *arguments, PYTHONPATH=str(fake_package))


def workers_once_both_lanes_sleep(process, out):
    """The worker processes, when each lane has stored its first case."""
    end = time.monotonic() + 90
    while len(lines(out / FILE_NAME)) < 2:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    return workers


def still_running(workers):
    """Of `workers`, those that do not end by themselves; one that nobody has reaped has ended."""
    alive = psutil.wait_procs(workers, timeout=8)[1]
    return [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_reproduction_that_was_killed_goes_on_where_it_left_off(start, out):
    process = start()
    workers = workers_once_both_lanes_sleep(process, out)
    process.kill()  # it alone: nobody tells the workers
    process.wait()
    assert still_running(workers) == []
    kept = lines(out / FILE_NAME)
    assert not (out / "tables.md").exists()

    process = start(AWAKE="1")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert lines(out / FILE_NAME)[:2] == kept  # byte for byte
    stored = [json.loads(line) for line in lines(out / FILE_NAME)]
    assert [record["label"] for record in stored] == ["full", "full", "sleeping", "sleeping"]
    assert {record["status"] for record in stored} == {"ok"}
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_a_reproduction_that_is_interrupted_says_how_it_goes_on(start, out):
    process = start()
    workers = workers_once_both_lanes_sleep(process, out)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "stopped; the same command goes on where it left off\n"
    assert still_running(workers) == []
    assert {json.loads(line)["status"] for line in lines(out / FILE_NAME)[:2]} == {"ok"}
