import json
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from petl_bench.case import Attention, Backbone, Case, DType, MethodChoice, Optimizer, Workload
from petl_bench.record import (
    SCHEMA_VERSION,
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
    load_record,
)

sizes = st.integers(0, 2**50)
seconds = st.floats(1e-9, 1e6)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
sentences = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)
by_category = st.dictionaries(st.sampled_from(Category), sizes, min_size=1)


def optional(values):
    return st.none() | values


@st.composite
def phase_memories(draw):
    categories = draw(optional(by_category))
    return PhaseMemory(
        peak_allocated_bytes=draw(sizes) if categories is None else sum(categories.values()),
        peak_reserved_bytes=draw(sizes),
        end_allocated_bytes=draw(sizes),
        peak_requested_bytes=draw(optional(sizes)),
        by_category=categories,
        elapsed_s=draw(optional(seconds)),
    )


rooflines = st.builds(
    RooflineEstimate,
    card=texts,
    step_s=seconds,
    compute_bound_s=seconds,
    memory_bound_s=seconds,
    launch_bound_s=seconds,
)
refusals = st.builds(
    Refusal,
    requested_bytes=sizes,
    phase=st.sampled_from(Phase),
    category=st.sampled_from(Category),
    operator=texts,
    allocated_bytes=sizes,
    reserved_bytes=sizes,
)
fits = st.builds(Fit, capacity_bytes=sizes, refusal=optional(refusals))
steps = st.lists(
    st.dictionaries(st.sampled_from(Phase), phase_memories(), min_size=1, max_size=2),
    min_size=1,
    max_size=2,
).map(tuple)
points = st.builds(
    TimelinePoint, event=sizes, phase=st.sampled_from(Phase), by_category=by_category
)


@st.composite
def measurements(draw, origin):
    measured = origin is Origin.MEASURED
    return Measurement(
        total_parameters=draw(sizes),
        backbone_parameters=draw(sizes),
        trainable_parameters=draw(sizes),
        load=draw(phase_memories()),
        steps=draw(steps),
        flops_per_step=draw(optional(sizes)),
        step_times_s=tuple(draw(st.lists(seconds, max_size=3))) if measured else None,
        roofline=draw(optional(rooflines)),
        device_used_bytes=draw(optional(sizes)) if measured else None,
        context_bytes=draw(optional(sizes)) if measured else None,
        fit=None if measured else draw(optional(fits)),
        timeline=tuple(draw(st.lists(points, max_size=2))),
    )


scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts
numbers = st.floats(allow_nan=False, allow_infinity=False)
cases = st.builds(
    Case,
    backbone=st.builds(
        Backbone,
        name=texts,
        family=texts,
        config=st.dictionaries(texts, scalars | numbers, max_size=3),
        dtype=st.sampled_from(DType),
        attention=st.sampled_from(Attention),
    ),
    method=st.builds(
        MethodChoice,
        name=texts,
        config=st.dictionaries(texts, scalars | numbers | st.lists(scalars), max_size=3),
    ),
    workload=st.builds(
        Workload,
        batch_size=st.integers(1, 2**31 - 1),
        optimizer=st.sampled_from(Optimizer),
        clip_grad_norm=optional(seconds),
        seed=st.integers(-(2**40), 2**40),
    ),
)
environments = st.builds(
    Environment,
    device=texts,
    platform=texts,
    python=texts,
    torch=texts,
    transformers=texts,
    peft=texts,
    petl_bench=texts,
    cuda=optional(texts),
    driver=optional(texts),
    device_total_bytes=optional(sizes),
    allocator_settings=texts,
    commit=optional(texts),
    dirty=optional(st.booleans()),
)


@st.composite
def records(draw):
    case, origin, status = draw(cases), draw(st.sampled_from(Origin)), draw(st.sampled_from(Status))
    return Record(
        case_id=case.case_id,
        case=case,
        label=draw(texts),
        origin=origin,
        status=status,
        reason=None if status is Status.OK else draw(sentences),
        requested_bytes=draw(optional(sizes)) if status is Status.OOM else None,
        method_source_sha256=draw(optional(texts)),
        environment=draw(environments),
        measurement=draw(measurements(origin)) if status is Status.OK else None,
        created=draw(st.datetimes(timezones=st.just(UTC))),
        worker_s=draw(optional(seconds)),
    )


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(records())
def test_a_record_that_is_written_and_read_is_the_same_record(record):
    line = record.model_dump_json()
    assert "\n" not in line
    loaded = load_record(json.loads(line))
    assert loaded == record
    assert loaded.model_dump_json() == line
    assert loaded.case.case_id == record.case_id


def test_a_record_knows_when_it_was_made(made_up_record):
    data = made_up_record().model_dump(mode="json")
    del data["created"]
    before = datetime.now(UTC)
    assert before <= load_record(data).created <= datetime.now(UTC)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, -1, "1", 1.0, True, None])
def test_a_record_of_an_unknown_schema_is_refused_with_the_newest_known(made_up_record, version):
    data = made_up_record().model_dump(mode="json") | {"schema_version": version}
    with pytest.raises(ValueError, match=f"schema_version {version!r} .*newest: {SCHEMA_VERSION}"):
        load_record(data)


def test_a_record_without_a_schema_is_refused(made_up_record):
    data = made_up_record().model_dump(mode="json")
    del data["schema_version"]
    with pytest.raises(ValueError, match="schema_version None is not supported"):
        load_record(data)


@pytest.mark.parametrize("document", [None, [], "record", 1])
def test_json_that_is_no_object_is_not_a_record(document):
    with pytest.raises(ValueError, match="not a JSON object"):
        load_record(document)


def test_a_field_that_no_record_has_is_refused_by_name(made_up_record):
    data = made_up_record().model_dump(mode="json") | {"peak_mb": 1}
    with pytest.raises(ValidationError, match="peak_mb"):
        load_record(data)


def test_categories_that_do_not_sum_to_the_peak_are_refused_with_both_numbers():
    with pytest.raises(ValidationError, match="by_category sums to 30, peak_allocated_bytes is 31"):
        PhaseMemory(
            peak_allocated_bytes=31,
            peak_reserved_bytes=40,
            end_allocated_bytes=0,
            by_category={Category.PARAMETER: 10, Category.ACTIVATION: 20},
        )


@pytest.mark.parametrize("status", [Status.OOM, Status.SKIPPED, Status.ERROR])
def test_a_record_that_did_not_end_well_gives_its_reason_and_no_numbers(made_up_record, status):
    data = made_up_record(status=status, reason="because").model_dump(mode="json")
    for reason in (None, ""):
        with pytest.raises(ValidationError, match=f"status {status} must give its reason"):
            load_record(data | {"reason": reason})
    numbers = made_up_record().model_dump(mode="json")["measurement"]
    with pytest.raises(ValidationError, match="if, and only if, its status is ok"):
        load_record(data | {"measurement": numbers})


def test_a_record_that_ended_well_has_its_numbers(made_up_record):
    data = made_up_record().model_dump(mode="json")
    with pytest.raises(ValidationError, match="if, and only if, its status is ok"):
        load_record(data | {"measurement": None})


def test_only_a_record_that_ran_out_of_memory_tells_what_was_refused(made_up_record):
    assert made_up_record(status=Status.OOM, reason="full", requested_bytes=512).requested_bytes
    with pytest.raises(ValidationError, match="requested_bytes"):
        made_up_record(status=Status.ERROR, reason="broken", requested_bytes=512)


@pytest.mark.parametrize(
    ("field", "value"),
    [("step_times_s", [0.1]), ("device_used_bytes", 512), ("context_bytes", 512)],
)
def test_a_simulated_record_has_no_measured_number(made_up_record, field, value):
    data = made_up_record().model_dump(mode="json")
    data["measurement"][field] = value
    with pytest.raises(ValidationError, match=f"{field} is measured"):
        load_record(data)
    assert load_record(data | {"origin": "measured"})


def test_only_a_simulated_record_tells_whether_it_would_fit(made_up_record):
    data = made_up_record(fit=Fit(capacity_bytes=2**34)).model_dump(mode="json")
    assert load_record(data).measurement.fit.refusal is None
    with pytest.raises(ValidationError, match="fit is simulated"):
        load_record(data | {"origin": "measured"})


def test_a_record_from_before_it_could_tell_what_fits_is_read(made_up_record):
    data = made_up_record().model_dump(mode="json")
    del data["measurement"]["fit"]
    assert load_record(data).measurement.fit is None


def test_a_record_from_before_its_case_had_a_field_is_found_under_todays_id(made_up_record):
    document = json.loads(made_up_record().model_dump_json())
    document["case_id"] = "0" * 16
    del document["case"]["workload"]["optimizer"]
    assert load_record(document).case_id == made_up_record().case.case_id


def test_a_case_that_is_too_large_for_its_card_ends_out_of_memory_there(made_up_record, refused):
    assert made_up_record(fit=refused()).ending is Status.OOM
    assert made_up_record(fit=refused()).status is Status.OK
    assert made_up_record(fit=Fit(capacity_bytes=512)).ending is Status.OK
    assert made_up_record(status=Status.SKIPPED, reason="no").ending is Status.SKIPPED


@pytest.mark.parametrize("no_steps", [[], [{}]])
def test_a_measurement_without_steps_is_refused(made_up_record, no_steps):
    data = made_up_record().model_dump(mode="json")
    data["measurement"]["steps"] = no_steps
    with pytest.raises(ValidationError, match="steps"):
        load_record(data)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_json_lacks_is_refused(made_up_record, value):
    data = made_up_record(origin=Origin.MEASURED).model_dump(mode="json")
    data["measurement"]["step_times_s"] = [value]
    with pytest.raises(ValidationError, match="step_times_s"):
        load_record(data)


def test_the_peak_of_a_measurement_is_the_highest_of_all_steps_and_phases():
    def memory(allocated, reserved):
        return PhaseMemory(
            peak_allocated_bytes=allocated, peak_reserved_bytes=reserved, end_allocated_bytes=0
        )

    measurement = Measurement(
        total_parameters=3,
        backbone_parameters=2,
        trainable_parameters=1,
        load=memory(99, 99),  # not part of a step
        steps=(
            {Phase.FORWARD: memory(5, 50), Phase.BACKWARD: memory(7, 20)},
            {Phase.FORWARD: memory(6, 40), Phase.BACKWARD: memory(4, 30)},
        ),
    )
    assert measurement.peak_allocated_bytes == 7
    assert measurement.peak_reserved_bytes == 50
    assert measurement.peak(Phase.FORWARD).peak_allocated_bytes == 6
