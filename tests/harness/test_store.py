import errno
import json
import os
import subprocess
import sys

import pytest

from petl_bench.errors import UsageError
from petl_bench.record import SCHEMA_VERSION, Origin, Status
from petl_bench.store import FILE_NAME, Expected, Store, latest, read_records


@pytest.fixture
def filled(tmp_path, made_up_records):
    """A run folder with three records, and the records."""
    folder = tmp_path / "run"
    store = Store(folder)
    records = made_up_records(3)
    for record in records:
        store.append(record)
    return folder, records


def lines_of(folder):
    return (folder / FILE_NAME).read_bytes().splitlines(keepends=True)


def test_what_was_appended_is_read_back_in_order(filled):
    folder, records = filled
    assert list(read_records(folder)) == records
    assert list(read_records(folder / FILE_NAME)) == records
    assert Store(folder).records == records


def test_an_appended_record_is_on_disk_before_append_returns(tmp_path, made_up_record, monkeypatch):
    synced = []
    fsync = os.fsync

    def note(descriptor):
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    store = Store(tmp_path)
    store.append(made_up_record())
    written = (tmp_path / FILE_NAME).stat()
    assert synced == [(written.st_ino, written.st_size)]
    assert len(lines_of(tmp_path)) == 1
    assert lines_of(tmp_path)[0].endswith(b"\n")


def test_each_record_is_one_line_whatever_its_reason_says(tmp_path, made_up_record):
    reason = "first\nsecond\r\n\u2028third \u00e9 \U0001f600"
    record = made_up_record(status=Status.ERROR, reason=reason)
    Store(tmp_path).append(record)
    assert (tmp_path / FILE_NAME).read_bytes().count(b"\n") == 1
    assert list(read_records(tmp_path)) == [record]


@pytest.mark.parametrize("kept_bytes", [1, 100, -1])
def test_a_half_written_last_line_is_passed_over_and_cut_when_the_run_goes_on(
    filled, made_up_record, kept_bytes
):
    folder, records = filled
    path = folder / FILE_NAME
    *whole, last = lines_of(folder)
    path.write_bytes(b"".join(whole) + last.rstrip(b"\n")[:kept_bytes])
    assert list(read_records(folder)) == records[:2]
    assert path.read_bytes() != b"".join(whole)  # reading repairs nothing

    store = Store(folder)
    assert store.records == records[:2]
    assert path.read_bytes() == b"".join(whole)
    added = made_up_record("lst")
    store.append(added)
    assert list(read_records(folder)) == [*records[:2], added]


def test_a_last_line_that_ends_within_a_character_is_passed_over(tmp_path, made_up_record):
    path = tmp_path / FILE_NAME
    store = Store(tmp_path)
    store.append(made_up_record())
    store.append(made_up_record(label="l\u00e9ger"))
    data = path.read_bytes()
    path.write_bytes(data[: data.index("\u00e9".encode()) + 1])
    assert len(list(read_records(tmp_path))) == 1
    assert len(Store(tmp_path).records) == 1
    assert len(lines_of(tmp_path)) == 1


def test_a_store_of_one_half_line_is_an_empty_store(tmp_path):
    (tmp_path / FILE_NAME).write_text('{"schema_version":1,')
    assert Store(tmp_path).records == []
    assert (tmp_path / FILE_NAME).read_bytes() == b""


def test_a_run_that_fails_before_its_first_record_leaves_no_folder(tmp_path, made_up_record):
    def fail(folder, before):
        store = Store(folder)

        def run():
            for record in before:
                store.append(record)
            raise UsageError("no such device")

        with pytest.raises(UsageError), store.or_nothing():
            run()

    fail(tmp_path / "made" / "for it", before=[])
    assert not (tmp_path / "made").exists()
    (tmp_path / "there").mkdir()
    fail(tmp_path / "there", before=[])
    assert list((tmp_path / "there").iterdir()) == []
    fail(tmp_path / "some", before=[made_up_record()])
    assert len(Store(tmp_path / "some").records) == 1


def test_blank_lines_are_no_records(filled):
    folder, records = filled
    path = folder / FILE_NAME
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\n \n"))
    assert list(read_records(folder)) == records


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "Expecting"),
        (b"null", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"{}", "schema_version None"),
        (b'{"schema_version":1}', "case_id: Field required"),
        (b"\xff\xfe", "not UTF-8"),
        (b"half of a line{}", "Expecting"),
    ],
)
def test_a_corrupt_line_is_told_by_its_number_and_the_file_is_left_alone(filled, line, told):
    folder, _ = filled
    path = folder / FILE_NAME
    first, second, third = lines_of(folder)
    # The half line at the end is not cut either: what is no store is not ours to mend.
    path.write_bytes(b"".join((first, line, b"\n", second, third[:50])))
    before = path.read_bytes()
    for read in (lambda: list(read_records(folder)), lambda: Store(folder)):
        with pytest.raises(UsageError, match=rf"{FILE_NAME} line 2 is not a record: ") as refused:
            read()
        assert told in str(refused.value)
        assert "\n" not in str(refused.value)
    assert path.read_bytes() == before


def test_a_record_of_a_newer_schema_is_told_with_the_newest_known(filled):
    folder, _ = filled
    newer = json.loads(lines_of(folder)[0]) | {"schema_version": SCHEMA_VERSION + 1}
    with (folder / FILE_NAME).open("a") as file:
        file.write(json.dumps(newer) + "\n")
    with pytest.raises(UsageError, match=f"line 4 .*newest: {SCHEMA_VERSION}"):
        Store(folder)


def test_a_finished_case_is_found_again_and_the_latest_record_of_it(tmp_path, made_up_record):
    store = Store(tmp_path)
    older, newer = made_up_record(peak_bytes=10**10), made_up_record(peak_bytes=2 * 10**10)
    store.append(older)
    store.append(newer)
    assert Store(tmp_path).finished(Expected.of(older)) == newer


@pytest.mark.parametrize("status", [Status.OOM, Status.SKIPPED])
def test_a_case_that_cannot_end_otherwise_is_finished(tmp_path, made_up_record, status):
    store = Store(tmp_path)
    record = made_up_record(status=status, reason="because")
    store.append(record)
    assert store.finished(Expected.of(record)) == record


def test_an_error_is_not_finished_and_does_not_hide_what_was(tmp_path, made_up_record):
    store = Store(tmp_path)
    error = made_up_record(status=Status.ERROR, reason="the worker died")
    store.append(error)
    assert store.finished(Expected.of(error)) is None
    good = made_up_record()
    store.append(good)
    store.append(error)
    assert store.finished(Expected.of(error)) == good


def test_nothing_from_another_place_or_another_source_is_finished(tmp_path, made_up_record):
    store = Store(tmp_path)
    record = made_up_record()
    store.append(record)
    here = Expected.of(record)
    elsewhere = [
        here._replace(case_id="0" * 16),
        here._replace(origin=Origin.MEASURED),
        here._replace(method_source_sha256="0" * 64),
        *(
            here._replace(environment=here.environment.model_copy(update={field: "other"}))
            for field in type(here.environment).model_fields
        ),
    ]
    assert [other for other in elsewhere if store.finished(other) is not None] == []
    assert store.finished(here) == record


def test_the_latest_of_each_case_origin_and_device_stands_at_its_first_ones_place(made_up_record):
    def record(method, device="a100-80gb", origin=Origin.SIMULATED, **options):
        return made_up_record(method, device=device, origin=origin, **options)

    error = record("lora", status=Status.ERROR, reason="the worker died")
    full, lora, newer = record("full"), record("lora"), record("full", peak_bytes=2**34)
    measured, elsewhere = record("full", origin=Origin.MEASURED), record("full", device="h100")
    kept = latest([error, full, lora, newer, measured, elsewhere])
    assert kept == [lora, newer, measured, elsewhere]
    assert latest([]) == []


@pytest.mark.parametrize("below", ["", "run", "run/deeper"])
def test_a_folder_that_cannot_be_made_is_told_by_its_path(tmp_path, below):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UsageError, match=r"out: cannot write .*taken") as refused:
        Store(tmp_path / "taken" / below)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "taken").read_text() == "a file"


def test_records_that_are_a_folder_cannot_be_written(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(UsageError, match=r"out: cannot write .*directory"):
        Store(tmp_path)


def test_records_that_are_not_there_are_told_by_path(tmp_path):
    with pytest.raises(UsageError, match=r"records: cannot read .*absent: No such file"):
        list(read_records(tmp_path / "absent"))
    with pytest.raises(UsageError, match=rf"cannot read .*{FILE_NAME}: No such file"):
        list(read_records(tmp_path))


def test_a_folder_that_another_process_writes_to_is_refused(tmp_path):
    Store(tmp_path)
    code = (
        "import sys, pathlib; from petl_bench.store import Store; Store(pathlib.Path(sys.argv[1]))"
    )
    second = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "out: another run is writing" in second.stderr


def test_a_disk_that_takes_no_more_is_told_in_one_line(tmp_path, made_up_record, monkeypatch):
    store = Store(tmp_path)

    def full(fd, data):
        del fd, data
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UsageError, match="No space left on device"):
        store.append(made_up_record())
