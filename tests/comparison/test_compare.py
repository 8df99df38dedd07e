"""What is made of two sets of records."""

import json
import xml.etree.ElementTree as ET

import pytest

from petl_bench.case import MethodChoice, Workload
from petl_bench.comparison import Verdict, compare
from petl_bench.comparison.annotations import lines
from petl_bench.comparison.composition import moved
from petl_bench.comparison.junit import document
from petl_bench.comparison.markdown import page
from petl_bench.comparison.subjects import of_records
from petl_bench.comparison.thresholds import DEFAULT, parse
from petl_bench.comparison.words import message
from petl_bench.errors import UsageError
from petl_bench.method_spec import resolve
from petl_bench.record import Category, Origin, Part, Status
from petl_bench.units import GIB, MIB


@pytest.fixture
def judged():
    """Factory: the outcome of two lists of records."""

    def judge(base, new, *, fail_on=(), warn_on=(), strict=False):
        return compare(
            of_records(base),
            of_records(new),
            fail_on=[parse(text) for text in fail_on] or (DEFAULT,),
            warn_on=[parse(text) for text in warn_on],
            strict=strict,
        )

    return judge


def only(outcome):
    (case,) = outcome.cases
    return case


# --- verdicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grown", "verdict", "code"),
    [(0, "unchanged", 0), (1, "regressed", 1), (-1, "improved", 0)],
)
def test_by_default_a_simulated_peak_may_not_grow_by_a_byte(
    judged, made_up_record, grown, verdict, code
):
    new = made_up_record(peak_bytes=10 * GIB + grown)
    outcome = judged([made_up_record()], [new])
    assert (only(outcome).verdict, outcome.exit_code) == (verdict, code)


@pytest.mark.parametrize(
    ("limit", "grown", "verdict"),
    [
        ("peak_allocated:1%", GIB // 10, "unchanged"),  # exactly 1 % of 10 GiB
        ("peak_allocated:1%", GIB // 10 + 1, "regressed"),
        ("peak_allocated:2MiB", 2 * MIB, "unchanged"),
        ("peak_allocated:2MiB", 2 * MIB + 1, "regressed"),
        ("peak_allocated:2MiB", -2 * MIB - 1, "improved"),
        ("peak_allocated_bytes:0", 1, "regressed"),
        ("trainable_parameters:0", GIB, "unchanged"),  # another field is not judged
    ],
)
def test_a_threshold_allows_exactly_what_it_says(judged, made_up_record, limit, grown, verdict):
    new = made_up_record(peak_bytes=10 * GIB + grown)
    assert only(judged([made_up_record()], [new], fail_on=[limit])).verdict == verdict


def test_of_two_thresholds_on_one_field_either_may_fail(judged, made_up_record):
    new = made_up_record(peak_bytes=10 * GIB + 3 * MIB)
    limits = ["peak_allocated:1%", "peak_allocated:2MiB"]
    for order in (limits, limits[::-1]):
        assert judged([made_up_record()], [new], fail_on=order).exit_code == 1


def test_what_warns_does_not_fail(judged, made_up_record):
    new = made_up_record(peak_bytes=10 * GIB + MIB)
    outcome = judged(
        [made_up_record()], [new], fail_on=["peak_allocated:1%"], warn_on=["activation:0"]
    )
    assert outcome.exit_code == 0
    assert only(outcome).warned
    assert next(iter(lines(outcome))).startswith("::warning title=petl-bench full::")


def test_a_measured_peak_may_move_by_its_noise(judged, made_up_record):
    def measured(peak_bytes):
        return made_up_record(origin=Origin.MEASURED, peak_bytes=peak_bytes)

    base = measured(1000 * MIB)
    assert judged([base], [measured(1005 * MIB)]).exit_code == 0  # half a percent
    assert judged([base], [measured(1006 * MIB)]).exit_code == 1


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (Status.OK, Status.OOM, "newly_failing"),
        (Status.OK, Status.ERROR, "newly_failing"),
        (Status.OK, Status.SKIPPED, "newly_failing"),
        (Status.OOM, Status.ERROR, "newly_failing"),
        (Status.ERROR, Status.OK, "fixed"),
        (Status.OOM, Status.OK, "fixed"),
    ],
)
def test_an_ending_is_judged_like_a_number(judged, made_up_record, before, after, verdict):
    def ended(status):
        reason = None if status is Status.OK else "so it was"
        return made_up_record(status=status, reason=reason)

    outcome = judged([ended(before)], [ended(after)])
    assert only(outcome).verdict == verdict
    assert outcome.exit_code == (verdict == "newly_failing")
    assert f"{before.value}" in message(only(outcome))


def test_a_simulation_that_outgrows_its_card_newly_fails(judged, made_up_record, refused):
    outcome = judged([made_up_record()], [made_up_record(fit=refused())])
    assert only(outcome).verdict is Verdict.NEWLY_FAILING


def test_new_and_missing_cases_are_listed_and_fail_only_if_strict(judged, made_up_records):
    base, new = made_up_records(3), made_up_records(4)[1:]
    outcome = judged(base, new)
    assert outcome.counts == {Verdict.MISSING: 1, Verdict.NEW: 1, Verdict.UNCHANGED: 2}
    assert outcome.exit_code == 0
    strict = judged(base, new, strict=True)
    assert {case.verdict for case in strict.failures} == {Verdict.MISSING, Verdict.NEW}
    assert strict.exit_code == 1


def test_strict_wants_the_base_to_say_what_is(judged, made_up_record):
    new = made_up_record(peak_bytes=9 * GIB)
    assert judged([made_up_record()], [new]).exit_code == 0
    assert judged([made_up_record()], [new], strict=True).exit_code == 1


def test_another_card_is_not_comparable_and_another_version_is(judged, made_up_record):
    base = [made_up_record(), made_up_record("lora")]
    elsewhere = made_up_record(device="t4")
    place = base[1].environment.model_copy(update={"torch": "9.9.9"})
    newer = made_up_record("lora", peak_bytes=11 * GIB).model_copy(update={"environment": place})
    outcome = judged(base, [elsewhere, newer])
    regressed, apart = outcome.cases
    assert regressed.versions == {"torch": ("2.13.0", "9.9.9")}
    assert (apart.verdict, apart.reason) == (
        Verdict.NOT_COMPARABLE,
        "device: a100-80gb before, t4 now",
    )


def test_nothing_compared_is_no_pass(judged, made_up_record):
    oom = made_up_record(status=Status.OOM, reason="full")
    for base, new, told in (
        ([made_up_record()], [made_up_record("lora")], r"in common; the base has 1, .*has 1, such"),
        ([], [], "in common; the base has none; the new side has none"),
        ([made_up_record()], [made_up_record(device="t4")], "has numbers on both sides; device"),
        ([oom], [oom], "has numbers on both sides"),
    ):
        with pytest.raises(UsageError, match=f"no case {told}"):
            judged(base, new)
    with pytest.raises(UsageError, match="no case has device_used on both sides"):
        judged([made_up_record()], [made_up_record()], fail_on=["device_used:1%"])


def test_a_baseline_outlives_an_option_that_its_method_gains(judged, made_up_record):
    def lora(config, peak_bytes):
        record = made_up_record("lora", peak_bytes=peak_bytes)
        method = MethodChoice(name="lora", config=config)
        case = record.case.model_copy(update={"method": method})
        return record.model_copy(update={"case": case, "case_id": case.case_id})

    today = resolve("lora", {}).config
    older = {name: value for name, value in today.items() if name != "dropout"}
    outcome = judged([lora(older, 10 * GIB)], [lora(today, 11 * GIB)])
    assert only(outcome).verdict is Verdict.REGRESSED
    other = judged([lora(older, GIB)] * 2, [lora(today, GIB), lora(today | {"r": 3}, GIB)])
    assert other.counts == {Verdict.NEW: 1, Verdict.UNCHANGED: 1}


def test_the_worst_comes_first(judged, made_up_record):
    loads = [Workload(batch_size=size) for size in (1, 2, 3, 4)]
    base = [made_up_record(workload=load) for load in loads]
    peaks = (10 * GIB + 1, 9 * GIB, 12 * GIB, 10 * GIB)
    new = [made_up_record(workload=w, peak_bytes=p) for w, p in zip(loads, peaks, strict=True)]
    outcome = judged(base, new)
    batches = [case.setting.split("batch ")[1][0] for case in outcome.cases]
    assert batches == ["3", "1", "2", "4"]


def test_of_several_records_of_a_case_the_last_counts(judged, made_up_record):
    stale = made_up_record(peak_bytes=99 * GIB)
    outcome = judged([stale, made_up_record()], [stale, made_up_record()])
    assert only(outcome).verdict is Verdict.UNCHANGED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("peak_alocated:1%", "did you mean peak_allocated"),
        ("peak_allocated:much", "a percent or a size such as 2MiB"),
        ("peak_allocated:-1%", "a percent or a size"),
        ("trainable_parameters:2MiB", "a percent or 0"),
        ("peak_allocated:", "a percent or a size"),
        ("", "no field"),
    ],
)
def test_a_threshold_that_cannot_be_read_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        parse(text)


# --- what moved ---------------------------------------------------------------------------------


def part(layers="", size=100, tensors=1, **fields):
    options = {"category": "activation", "module": "block.*.q", "operator": "aten::mm"}
    return Part(layers=layers, allocated_bytes=size, tensors=tensors, **options | fields)


def test_a_move_names_the_layers_that_it_happened_in():
    before = [part("0-11")]
    after = [part("0-2,4-11"), part("3", size=150, tensors=2)]
    (move,) = moved(before, after)
    assert (move.module, move.layers, move.allocated_bytes, move.tensors) == ("block.3.q", 1, 50, 1)


def test_moves_sum_to_the_difference_and_the_largest_is_first():
    before = [part("0-3", 10), part(operator="aten::add", module="head", size=7)]
    after = [part("0-1", 10), part("0-3", 40, category=Category.GRADIENT)]
    moves = moved(before, after)
    assert [move.allocated_bytes for move in moves] == [160, -20, -7]
    assert [move.module for move in moves] == ["block.0-3.q", "block.2-3.q", "head"]


def test_tensors_that_only_lie_in_other_blocks_are_told_apart_from_larger_ones():
    def move(grown):
        return only_move([part("0-1", 2 * MIB)], [part("0-1", 2 * MIB + grown)])

    def only_move(before, after):
        (found,) = moved(before, after)
        return found

    assert move(MIB).is_placement  # what a block may have left over, in either layer
    assert not move(MIB + 512).is_placement
    assert not only_move([], [part("0", 512)]).is_placement


def test_a_hostile_layer_list_is_refused():
    with pytest.raises(ValueError, match="layers"):
        part("0-99999999999")


# --- pages --------------------------------------------------------------------------------------

HOSTILE = "lora[r=8]\x00|<script>alert(1)</script>,::error::%0A\n# title"


@pytest.fixture
def hostile(judged, made_up_record):
    new = made_up_record(label=HOSTILE, peak_bytes=11 * GIB)
    return judged([made_up_record()], [new])


def test_junit_is_xml_whatever_a_label_says(hostile):
    suite = ET.fromstring(document(hostile))  # noqa: S314 - our own
    assert suite.attrib["failures"] == "1"
    failure = suite.find("testcase/failure")
    assert "+1.00 GiB" in failure.attrib["message"]
    assert "activation" in failure.text


def test_markdown_shows_a_label_and_does_not_obey_it(hostile):
    text = page(hostile)
    assert "<script>" not in text.replace(r"\<script>", "")
    assert not [line for line in text.splitlines() if line.startswith("# ")]
    assert "memory check failed" in text


def test_an_annotation_is_one_line(hostile):
    (line,) = lines(hostile)
    assert line.startswith("::error title=petl-bench ")
    assert line.count("::") == 3 + 1  # the command's two, and the label's own, which are text
    assert "%0A" in line
    assert "\n" not in line


def test_an_outcome_is_json(hostile):
    found = json.loads(hostile.model_dump_json())
    assert found["cases"][0]["verdict"] == "regressed"
    assert found["cases"][0]["by_category"]["activation"] > 0
