"""Faults of the machine: killed processes and full disks."""

import json
import os
import subprocess
import sys

from petl_bench.store import FILE_NAME, Store, read_records

KILLS = 20
RECORDS = 400
WRITER_RECORDS = 50


def lines_of(made_up_record, count):
    """Records of as many cases, each a line."""
    base = made_up_record().model_dump(mode="json")
    for seed in range(count):
        base["case"]["workload"]["seed"] = seed
        yield json.dumps(base) + "\n"


# A sweep without its simulations, which take seconds: what is stored already is not made again.
# It runs in forks, so that Python starts once.
SWEEPS = """
import os, random, signal, sys, time
from pathlib import Path
from petl_bench.record import load_record_json
from petl_bench.store import FILE_NAME, Expected, Store, read_records

folder, source, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
expected = list(read_records(source))
chance = random.Random(0)

def sweep():
    store = Store(folder)
    for record in expected:
        if store.finished(Expected.of(record)) is None:
            store.append(record)

for _ in range(kills):
    child = os.fork()
    if child == 0:
        sweep()
        os._exit(0)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    file = folder / FILE_NAME
    if not file.exists():
        continue
    kept = list(read_records(file))
    assert kept == expected[: len(kept)]  # whole, in order, none twice
    print(os.WIFSIGNALED(status), len(kept))
    # What a kill within a write leaves, at a moment of its own.
    with file.open("ab") as half:
        half.write(source.read_bytes()[: chance.randrange(200)])
sweep()
"""


def test_a_sweep_killed_at_random_ends_with_the_records_of_one_that_was_not(
    tmp_path, made_up_record
):
    source = tmp_path / "source.jsonl"
    source.write_text("".join(lines_of(made_up_record, RECORDS)))
    arguments = [sys.executable, "-c", SWEEPS, tmp_path / "run", source, str(KILLS)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed = [line for line in done.stdout.splitlines() if line.startswith("True")]
    assert len(killed) >= KILLS // 2  # the others came before the first record, or after the last
    assert list(read_records(tmp_path / "run")) == list(read_records(source))


# Runs that want one folder at once, each with cells of its own and some of the next one's. The lock
# gives it to one at a time; the first is killed within a line, and its command comes again.
WRITERS = """
import os, signal, sys, time
from pathlib import Path
from petl_bench.errors import UsageError
from petl_bench.store import Expected, Store, read_records

folder, source, each = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
everything = list(read_records(source))

def run(first, dies):
    refused = 0
    while True:
        try:
            store = Store(folder)
            break
        except UsageError as refusal:
            assert "another run is writing" in str(refusal)
            refused += 1
            time.sleep(0.001)
    cells = [everything[at % len(everything)] for at in range(first, first + each + each // 5)]
    for done, record in enumerate(cells):
        if dies and done == each // 2:
            with store.path.open("ab") as file:
                file.write(record.model_dump_json().encode()[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        if store.finished(Expected.of(record)) is None:
            store.append(record)
    print(refused, flush=True)

def start(first, dies=False):
    child = os.fork()
    if child == 0:
        run(first, dies)
        os._exit(0)
    return child

def status_of(child):
    return os.waitpid(child, 0)[1]

starts = range(0, len(everything), each)
children = [start(first, dies=first == 0) for first in starts]
assert [status_of(child) for child in children] == [signal.SIGKILL, 0, 0, 0]
assert status_of(start(0)) == 0
"""


def test_four_runs_that_want_one_folder_lose_nothing_and_write_nothing_twice(
    tmp_path, made_up_record
):
    source = tmp_path / "source.jsonl"
    source.write_text("".join(lines_of(made_up_record, WRITER_RECORDS * 4)))
    arguments = [sys.executable, "-c", WRITERS, tmp_path / "run", source, str(WRITER_RECORDS)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = [int(count) for count in done.stdout.split()]
    assert len(refused) == 4
    assert max(refused) > 0
    assert (tmp_path / "run" / FILE_NAME).read_bytes().endswith(b"\n")
    stored = [record.case_id for record in read_records(tmp_path / "run")]
    assert sorted(stored) == sorted(record.case_id for record in read_records(source))


# A disk that fills up within a line: writes of regular files are cut at the limit.
FULL = """
import resource, signal, sys
from pathlib import Path
from petl_bench.errors import UsageError
from petl_bench.record import load_record_json
from petl_bench.store import Store

folder, source, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
store = Store(folder)
try:
    for line in source.read_bytes().splitlines():
        store.append(load_record_json(line))
except UsageError as error:
    print(len(store.records), error)
"""


def test_a_disk_that_fills_up_within_a_line_keeps_the_whole_lines(tmp_path, made_up_record):
    source = tmp_path / "source.jsonl"
    line = made_up_record().model_dump_json() + "\n"
    source.write_text(line * 3)
    limit = 2 * len(line.encode()) + 100
    arguments = [sys.executable, "-c", FULL, tmp_path / "run", source, str(limit)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 out: cannot write ")
    assert "File too large" in done.stdout
    assert (tmp_path / "run" / FILE_NAME).read_text() == line * 2


def test_a_write_that_takes_a_part_goes_on_with_the_rest(tmp_path, made_up_record, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:100]))
    store = Store(tmp_path)
    store.append(made_up_record())
    monkeypatch.undo()
    assert list(read_records(tmp_path)) == [made_up_record()]
