"""Runs that are killed, and the same command again."""

import json
import os
import signal
import time
from functools import partial

import psutil
import pytest

from petl_bench.store import FILE_NAME

pytestmark = pytest.mark.usefixtures("warm_processes")

METHODS = "lora,sleeping,lst"


@pytest.fixture
def start(tmp_path, tiny, fake_methods, start_command):
    """Factory: a `petl-bench run` as a process, in a group of its own."""
    del fake_methods
    place = ["--profiler", "simulated", "--backbone", tiny, "--out", tmp_path / "out"]
    return partial(start_command, "run", *place, "--batch-size=2", "-m", METHODS)


@pytest.fixture
def records(tmp_path):
    return tmp_path / "out" / FILE_NAME


def whole_lines(path):
    """Lines that end, as bytes."""
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def wait_for_lines(path, count, process):
    end = time.monotonic() + 60
    while len(whole_lines(path)) < count:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_was_killed_leaves_no_worker_and_goes_on_where_it_left_off(start, records):
    process = start()
    wait_for_lines(records, 2, process)  # the baseline and lora; now it sleeps
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()  # it alone: nobody tells the worker
    process.wait()
    assert psutil.wait_procs(workers, timeout=8)[1] == []
    kept = whole_lines(records)
    assert len(kept) == 2
    with records.open("ab") as file:
        file.write(b'{"schema_version":1,"protocol_version":1,"case_id":"')

    process = start(AWAKE="1")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    lines = whole_lines(records)
    assert lines[:2] == kept  # byte for byte
    assert records.read_bytes() == b"".join(lines)
    stored = [json.loads(line) for line in lines]
    assert [record["label"] for record in stored] == ["full", "lora", "sleeping", "lst"]
    assert {record["status"] for record in stored} == {"ok"}
    assert (records.parent / "report.html").exists()


def test_a_run_that_is_interrupted_says_how_it_goes_on_and_leaves_nobody_behind(start, records):
    process = start()
    wait_for_lines(records, 1, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "stopped; the same command goes on where it left off\n"
    assert psutil.wait_procs(workers, timeout=8)[1] == []
    assert 1 <= len(whole_lines(records)) <= 2
    assert records.read_bytes().endswith(b"\n")
