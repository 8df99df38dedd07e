"""Reading with what is known: the same records as one by one, and the same refusals."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from petl_bench import record_reader
from petl_bench.case import BASELINE_METHOD
from petl_bench.record import Origin, Status, load_record_json
from petl_bench.record_reader import RecordReader


def told(load, line):
    """What `load` makes of a line, or what it says of a line that it refuses."""
    try:
        return load(line)
    except ValidationError as error:
        return [(each["type"], each["loc"], each["msg"]) for each in error.errors()]
    except ValueError as error:
        return str(error)


@pytest.fixture(scope="module")
def lines(made_up_record):
    """Records of every kind, two of each, as they are written."""
    records = [
        made_up_record(BASELINE_METHOD, events=3),
        made_up_record("lora", origin=Origin.MEASURED),
        made_up_record("lst", status=Status.OOM, reason="full", requested_bytes=512),
        made_up_record("lora", label='\u00e9,"label":{"environment":null},{"measurement":'),
    ]
    return [record.model_dump_json().encode() + b"\n" for record in records for _ in range(2)]


def test_records_are_those_read_one_by_one(lines):
    reader = RecordReader()
    for line in lines:
        expected, found = load_record_json(line), reader(line)
        assert found == expected
        assert found.model_dump_json() == expected.model_dump_json()


def test_a_line_of_our_own_is_not_read_the_plain_way(lines, monkeypatch):
    monkeypatch.setattr(record_reader, "load_record_json", lambda line: pytest.fail(str(line)))
    reader = RecordReader()
    assert all(map(reader, lines))


def test_what_records_have_in_common_is_one_object(lines):
    reader = RecordReader()
    first, second = map(reader, lines[:2])
    assert first.case.backbone is second.case.backbone
    assert first.case.workload is second.case.workload
    assert first.environment is second.environment


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"case":{"backbone":', b'"case":{"more":1,"backbone":'),
        (b'"label":', b'"case":null,"label":'),
        (b'"label":', b'"environment":{},"label":'),
        (b'"at_peak":', b'"measurement":null,"at_peak":'),
        (b'"steps":[', b'"timeline":[],"steps":['),
        (b'"flops_per_step":', b'"steps":[],"flops_per_step":'),
        (b'"flops_per_step":', b'"steps":[{"forward":{}}],"flops_per_step":'),
        (b'"schema_version":1,', b""),
        (b'"schema_version":1', b'"schema_version":2'),
        (b'"schema_version":1', b'"schema_version":true'),
        (b'"batch_size":', b'"batch_size":-'),
        (b'"forward"', b'"sideward"'),
        (b'"peak_allocated_bytes":', b'"peak_allocated_bytes":1'),
        (b'"reason":null', b'"reason":NaN'),
        (b'"worker_s":', b'"worker_s":NaN,"worker":'),
        (b":", b": "),
        (b'"', b"'"),
        (b"}", b""),
        (b"\n", b"}\n"),
    ],
)
def test_a_line_that_is_not_ours_is_taken_or_refused_as_ever(lines, old, new):
    reader = RecordReader()
    for line in lines:
        changed = line.replace(old, new)
        for _ in range(2):  # the second time, its parts are known
            assert told(reader, changed) == told(load_record_json, changed)


@given(st.data())
def test_a_line_with_pieces_out_of_place_is_taken_or_refused_as_ever(lines, data):
    """Pieces between any two of the same marks change their places, or come twice."""
    line = data.draw(st.sampled_from(lines))
    mark = data.draw(st.sampled_from([b",", b"},", b'":', b"{", b"}}"]))
    pieces = line.split(mark)
    start, stop, place = sorted(data.draw(st.tuples(*[st.integers(0, len(pieces))] * 3)))
    moved = [*pieces[:start], *pieces[stop:place], *pieces[start:stop], *pieces[place:]]
    again = [*pieces[:stop], *pieces[start:]]
    reader = RecordReader()
    for text in (line, mark.join(moved), mark.join(again)):
        assert told(reader, text) == told(load_record_json, text)


def test_a_last_step_like_the_two_before_it_is_one_object(lines):
    steps = RecordReader()(lines[0]).measurement.steps
    document = json.loads(lines[0])
    measurement = document["measurement"]
    for count in (1, 2, 4):
        measurement["steps"] = measurement["steps"][:1] * count
        line = json.dumps(document, separators=(",", ":")).encode()
        found = RecordReader()(line).measurement.steps
        assert found == load_record_json(line).measurement.steps == steps[:1] * count
        assert count < 4 or found[-1] is found[-2]
