"""Verify: the numbers it draws from made-up pairs, and the command around them."""

import os
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from petl_bench import cards, registry
from petl_bench.case import Attention, Autocast
from petl_bench.cli import main
from petl_bench.cli import verify as command
from petl_bench.environment import allocator_options
from petl_bench.errors import UsageError
from petl_bench.record import Fit, Origin, Phase, Record, Status
from petl_bench.store import read_records
from petl_bench.suite import PlannedCase, Suite
from petl_bench.tables import to_markdown
from petl_bench.units import GIB, MIB, format_bytes
from petl_bench.verify.errors import WHOLE_STEP, Counter, verify
from petl_bench.verify.pairs import Pair, newest, pair_up
from petl_bench.verify.tables import case_name, case_tables, finding, overview

A100 = "NVIDIA A100-SXM4-80GB"
CARDS = {A100: "a100-80gb"}


@pytest.fixture
def made_up_pair(made_up_record):
    """Factory: one case, measured at `measured` bytes and simulated at `simulated`."""

    def make(measured, simulated, method="full", **options):
        return Pair(
            measured=made_up_record(
                method, peak_bytes=measured, origin=Origin.MEASURED, attributed=False, **options
            ),
            simulated=made_up_record(method, peak_bytes=simulated, **options),
        )

    return make


@pytest.fixture
def five_pairs(made_up_pair):
    """Errors of -10 %, -5 %, 0 %, +10 % and +20 % in the whole step's peak allocated."""
    peaks = [(20, 18), (40, 38), (10, 10), (50, 55), (30, 36)]
    return [
        made_up_pair(measured * GIB, simulated * GIB, f"m{number}")
        for number, (measured, simulated) in enumerate(peaks)
    ]


def changed(record, **environment):
    place = record.environment.model_copy(update=environment)
    return record.model_copy(update={"environment": place})


def without_numbers(record, status, reason="a reason"):
    return Record.model_validate(
        {**record.model_dump(), "status": status, "reason": reason, "measurement": None}
    )


def titled(title, verification):
    (table,) = (table for table in overview(verification) if table.title == title)
    return table


# Numbers


def test_an_error_is_simulated_over_measured_less_one_beside_both_raw_bytes(made_up_pair):
    differences = verify([made_up_pair(10 * GIB, 9 * GIB)]).differences
    found = {(d.counter, d.phase): (d.measured_bytes, d.simulated_bytes) for d in differences}
    allocated, reserved = Counter.PEAK_ALLOCATED, Counter.PEAK_RESERVED
    assert found[allocated, WHOLE_STEP] == (10 * GIB, 9 * GIB)
    assert found[allocated, Phase.FORWARD] == (10 * GIB * 3 // 4, 9 * GIB * 3 // 4)
    assert found[allocated, Phase.OPTIMIZER_STEP] == (5 * GIB, 9 * GIB // 2)
    assert found[reserved, WHOLE_STEP] == (10 * GIB + GIB // 4, 9 * GIB + GIB // 4)
    assert differences[0].error == pytest.approx(-0.1, abs=1e-12)


def test_a_counter_that_a_side_does_not_have_is_left_out(made_up_pair):
    verification = verify([made_up_pair(10 * GIB, 9 * GIB)])
    assert verification.summary(Counter.PEAK_REQUESTED) is None
    (table,) = case_tables(verification, phases=False)
    assert [cell.text for cell in table.rows[0]][-3:] == ["-", "-", "-"]


def test_each_counter_takes_its_own_highest_over_all_steps(made_up_pair):
    pair = made_up_pair(10 * GIB, 10 * GIB)
    measurement = pair.measured.measurement
    first, second, *others = measurement.steps
    higher = replace(second[Phase.FORWARD], peak_reserved_bytes=20 * GIB)
    steps = (first, second | {Phase.FORWARD: higher}, *others)
    measurement = replace(measurement, steps=steps)
    pair = Pair(
        measured=pair.measured.model_copy(update={"measurement": measurement}),
        simulated=pair.simulated,
    )
    verification = verify([pair])
    assert verification.summary(Counter.PEAK_RESERVED).worst.measured_bytes == 20 * GIB
    assert verification.summary(Counter.PEAK_ALLOCATED).worst.error == 0


def test_median_bias_worst_and_under_estimates(five_pairs):
    summary = verify(five_pairs).summary(Counter.PEAK_ALLOCATED)
    assert summary.count == 5
    assert summary.median_absolute_error == pytest.approx(0.1)  # of 0, 5, 10, 10, 20
    assert summary.bias == 0  # of -10, -5, 0, 10, 20
    assert summary.worst.error == pytest.approx(0.2)
    assert summary.worst.pair is five_pairs[4]
    assert summary.under_estimates == 2
    assert summary.worst_under_estimate.pair is five_pairs[0]


def test_no_under_estimate_is_none_and_not_the_best_over_estimate(made_up_pair):
    verification = verify([made_up_pair(GIB * 10, GIB * 11)])
    summary = verification.summary(Counter.PEAK_ALLOCATED, Phase.BACKWARD)
    assert (summary.under_estimates, summary.worst_under_estimate) == (0, None)
    assert "Under-estimated: none." in finding(verification)


def test_methods_that_sort_alike_have_nothing_swapped(five_pairs):
    (ranking,) = verify(five_pairs).rankings
    assert (ranking.methods, ranking.comparisons, ranking.swapped) == (5, 10, ())


def test_methods_that_sort_otherwise_are_named_with_what_lies_between_them(made_up_pair):
    pairs = [
        made_up_pair(10 * GIB, 10 * GIB, "full"),
        made_up_pair(8 * GIB, 7 * GIB, "adapter"),
        made_up_pair(6 * GIB, 9 * GIB, "lora"),
    ]
    (ranking,) = verify(pairs).rankings
    assert ranking.swapped == (("adapter", "lora", 0.25),)
    table = titled("Order of the methods by peak allocated", verify(pairs))
    texts = [cell.text for cell in table.rows[0]][1:]
    assert texts == ["3", "2 of 3", "adapter and lora (measured 25.00 % apart)"]


def test_a_tie_that_only_one_side_has_is_another_order(made_up_pair):
    pairs = [made_up_pair(8 * GIB, 8 * GIB, "a"), made_up_pair(8 * GIB, 9 * GIB, "b")]
    assert [swap[:2] for swap in verify(pairs).rankings[0].swapped] == [("a", "b")]


def test_methods_are_ranked_within_one_backbone_workload_device_and_allocator(made_up_pair):
    large = made_up_pair(9 * GIB, 9 * GIB, "lora", backbone="t5-large")
    other = made_up_pair(9 * GIB, 9 * GIB, "lora")
    other = Pair(measured=changed(other.measured, device="H200"), simulated=other.simulated)
    expandable = changed(other.measured, device=A100, allocator_settings="expandable_segments:True")
    expandable = Pair(measured=expandable, simulated=other.simulated)
    pairs = [made_up_pair(8 * GIB, 8 * GIB, "full"), large, other, expandable]
    verification = verify(pairs)
    assert verification.rankings == ()
    titles = [table.title for table in case_tables(verification, phases=False)]
    assert len(titles) == 4
    assert titles[3].endswith(f"measured on {A100}, expandable_segments:True")


# How cases end


def test_oom_on_both_sides_agrees_and_is_no_error(made_up_pair):
    pair = made_up_pair(GIB, GIB, status=Status.OOM, reason="too much")
    verification = verify([pair])
    assert pair.agrees
    assert verification.differences == ()
    assert verification.disagreements == []
    assert finding(verification) == "None of 1 case has numbers on both sides."


def with_fit(record, fit):
    measurement = replace(record.measurement, fit=fit)
    return record.model_copy(update={"measurement": measurement})


def test_a_simulation_that_is_too_large_for_its_card_agrees_with_a_measured_oom(
    made_up_pair, refused
):
    pair = made_up_pair(GIB, GIB)
    large = with_fit(pair.simulated, refused())
    fitting = with_fit(pair.simulated, Fit(capacity_bytes=GIB))
    out = without_numbers(pair.measured, Status.OOM)
    assert Pair(measured=out, simulated=large).agrees
    assert not Pair(measured=out, simulated=fitting).agrees
    assert not Pair(measured=out, simulated=pair.simulated).agrees
    assert Pair(measured=pair.measured, simulated=fitting).agrees


def test_a_case_that_was_measured_where_it_should_not_fit_is_told_with_its_numbers(
    made_up_pair, refused
):
    pair = made_up_pair(10 * GIB, 11 * GIB)
    wrong = Pair(measured=pair.measured, simulated=with_fit(pair.simulated, refused()))
    verification = verify([wrong])
    assert verification.disagreements == [wrong]
    assert verification.summary(Counter.PEAK_ALLOCATED).count == 1
    row = [cell.text for cell in overview(verification)[0].rows[0]]
    assert row[2] == "ok: 10.00 GiB allocated"
    assert row[3].startswith("too large: no room in backward")
    assert row[4] == "disagree"


@pytest.mark.parametrize("status", [Status.OOM, Status.ERROR, Status.SKIPPED])
def test_what_was_measured_but_not_simulated_disagrees(made_up_pair, status):
    pair = made_up_pair(GIB, GIB)
    pair = Pair(measured=pair.measured, simulated=without_numbers(pair.simulated, status))
    assert not pair.agrees


def test_two_errors_are_no_agreement(made_up_pair):
    assert not made_up_pair(GIB, GIB, status=Status.ERROR, reason="broken").agrees


def test_disagreements_come_first(made_up_pair):
    agreeing = made_up_pair(GIB, GIB, "full", status=Status.OOM, reason="too much")
    pair = made_up_pair(6 * GIB, 6 * GIB, "lora")
    apart = Pair(measured=without_numbers(pair.measured, Status.OOM), simulated=pair.simulated)
    lost = Pair(measured=pair.measured, simulated=None)
    table = overview(verify([agreeing, apart, lost]))[0]
    assert [(row[0].text.split()[0], row[-1].text) for row in table.rows] == [
        ("lora", "disagree"),
        ("lora", "disagree"),
        ("full", "agree"),
    ]
    assert [cell.text for cell in table.rows[0]][2:4] == ["oom: a reason", "ok: 6.00 GiB allocated"]


# What is paired with what


def test_a_pair_is_one_case_on_one_card_under_one_allocator_setting(made_up_record):
    measured = made_up_record("lora", origin=Origin.MEASURED)
    wanted = made_up_record("lora", peak_bytes=9 * GIB)
    simulated = [
        made_up_record("full"),
        made_up_record("lora", device="h100"),
        changed(made_up_record("lora"), allocator_settings="expandable_segments:True"),
        changed(made_up_record("lora"), emulates="torch-1.10"),
        made_up_record("lora").model_copy(update={"protocol_version": 0}),
        wanted,
    ]
    (pair,) = pair_up([measured], simulated, CARDS)
    assert pair.simulated is wanted
    (pair,) = pair_up([measured], simulated[:-1], CARDS)
    assert pair.simulated is None
    assert pair_up([wanted], simulated, CARDS) == []


def test_the_newest_record_of_a_case_counts_wherever_it_is_read(made_up_record):
    old = made_up_record("lora", origin=Origin.MEASURED)
    new = old.model_copy(update={"created": datetime(2026, 2, 1, tzinfo=UTC)})
    other = changed(old, allocator_settings="expandable_segments:True")
    full = made_up_record("full", origin=Origin.MEASURED)
    assert newest([new, full, other, old]) == [new, full, other]


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA RTX A6000", "a6000"),
        ("A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_a_device_is_known_by_torchs_name(device, card):
    assert cards.of_device(device).name == card


@pytest.mark.parametrize(
    "device", ["NVIDIA GH200 480GB", "NVIDIA T400", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"]
)
def test_an_unknown_device_is_named_and_asks_for_a_card(device):
    with pytest.raises(UsageError, match=rf"{device!r}.*--gpu: t4,.*h200"):
        cards.of_device(device)


# Tables


def test_the_tables_as_markdown(made_up_pair):
    pairs = [
        made_up_pair(16 * GIB, 16 * GIB, "full"),
        made_up_pair(10 * GIB, 9 * GIB, "lora", label="lora[r=8]"),
    ]
    verification = verify(pairs)
    summary, ranking, _ = overview(verification)
    page = [to_markdown(summary).splitlines()[:6], to_markdown(ranking).splitlines()]
    (cases,) = case_tables(verification, phases=True)
    page.append(to_markdown(cases).splitlines()[:6])
    expected = """\
**Error by counter and phase**

| counter | phase | cases | median error | bias | worst | worst case | under-estimates | \
worst of them |
| :--- | :--- | ---: | ---: | ---: | ---: | :--- | ---: | ---: |
| peak allocated | whole step | 2 | 5.00 % | -5.00 % | -10.00 % | \
lora[r=8] on t5-base, fp32, batch 100 | 1 | -10.00 % |
| peak allocated | forward | 2 | 5.00 % | -5.00 % | -10.00 % | \
lora[r=8] on t5-base, fp32, batch 100 | 1 | -10.00 % |
**Order of the methods by peak allocated**

| setting | methods | pairs in order | swapped |
| :--- | ---: | ---: | :--- |
| t5-base, fp32, eager, batch 100, source 128, target 3, adamw: \
measured on NVIDIA A100-SXM4-80GB | 2 | 1 of 1 | - |

Pairs of methods of which the same one needs more, simulated as measured.
**t5-base, fp32, eager, batch 100, source 128, target 3, adamw: measured on NVIDIA A100-SXM4-80GB**

| method | phase | allocated measured | allocated simulated | allocated error | \
reserved measured | reserved simulated | reserved error | \
requested measured | requested simulated | requested error |
| :--- | :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| full | whole step | 16.00 GiB | 16.00 GiB | 0 % | 16.25 GiB | 16.25 GiB | 0 % | - | - | - |
| full | forward | 12.00 GiB | 12.00 GiB | 0 % | 12.25 GiB | 12.25 GiB | 0 % | - | - | - |
"""
    assert [line for part in page for line in part] == expected.splitlines()


def test_the_finding_says_what_matters(five_pairs, made_up_pair):
    oom = made_up_pair(GIB, GIB, "lst")
    oom = Pair(measured=without_numbers(oom.measured, Status.OOM), simulated=oom.simulated)
    assert finding(verify([*five_pairs, oom])) == (
        "Peak allocated of the whole step, 5 cases: median error 10.00 %, worst +20.00 %"
        " (m4 on t5-base, fp32, batch 100), bias 0 %."
        " Under-estimated: 2, the worst by 10.00 % (m0 on t5-base, fp32, batch 100)."
        " Methods sort as measured in 1 of 1 settings."
        " Ended otherwise than measured, or in an error: 1 case."
    )


def test_a_case_name_is_what_tells_cases_of_a_suite_apart(made_up_record):
    record = made_up_record("lora", label="lora[r=8]")
    assert case_name(record) == "lora[r=8] on t5-base, fp32, batch 100"
    backbone = record.case.backbone.model_copy(update={"attention": Attention.SDPA})
    told = {"autocast": Autocast.BF16, "checkpointing": True}
    workload = record.case.workload.model_copy(update=told)
    case = record.case.model_copy(update={"backbone": backbone, "workload": workload})
    assert case_name(record.model_copy(update={"case": case})) == (
        "lora[r=8] on t5-base, fp32, batch 100, sdpa, autocast bf16, checkpointing"
    )


# Times and contexts


def timed(pair, measured_s, estimated_s):
    """`pair` with steps of `measured_s` and an estimate of `estimated_s`."""
    roofline = replace(pair.simulated.measurement.roofline, step_s=estimated_s)
    sides = {
        "measured": replace(pair.measured.measurement, step_times_s=measured_s),
        "simulated": replace(pair.simulated.measurement, roofline=roofline),
    }
    return replaced(pair, **sides)


def replaced(pair, **measurements):
    return Pair(
        **{
            side: getattr(pair, side).model_copy(
                update={"measurement": measurements.get(side, getattr(pair, side).measurement)}
            )
            for side in ("measured", "simulated")
        }
    )


def test_times_are_compared_by_the_median_of_the_measured_ones_and_by_their_order(made_up_pair):
    pairs = [
        timed(made_up_pair(GIB, GIB, "full"), (0.9, 1.0, 7.0), 0.8),
        timed(made_up_pair(GIB, GIB, "lora"), (0.5,), 0.6),
        timed(made_up_pair(GIB, GIB, "lst"), (0.4,), 0.7),
    ]
    (timing,) = verify(pairs).timings
    assert dict(timing.errors) == pytest.approx({"full": -0.2, "lora": 0.2, "lst": 0.75})
    assert (timing.in_order, timing.comparisons) == (2, 3)  # lora and lst are swapped
    table = titled("Time a step: the roofline's estimate beside measured", verify(pairs))
    texts = [cell.text for cell in table.rows[0]][1:]
    assert texts == ["3", "+20.00 %", "+75.00 %", "lst", "2 of 3"]


def test_a_context_is_what_the_process_had_less_what_was_reserved(made_up_pair):
    def read(pair, fresh, beside):
        measured = pair.measured.measurement
        used = measured.peak_reserved_bytes + beside
        return replaced(
            pair, measured=replace(measured, context_bytes=fresh, device_used_bytes=used)
        )

    pairs = [
        read(made_up_pair(GIB, GIB, "full"), 400 * MIB, 500 * MIB),
        read(made_up_pair(2 * GIB, GIB, "lora"), 400 * MIB, 520 * MIB),
    ]
    (seen,) = verify(pairs).contexts
    assert seen.fresh == (400 * MIB, 400 * MIB)
    assert seen.trained == (500 * MIB, 520 * MIB)
    table = titled("What a process takes beside its tensors", verify(pairs))
    allowed = format_bytes(cards.find("a100-80gb").context_bytes)
    assert [cell.text for cell in table.rows[1]][1:] == [
        "after steps",
        "2",
        "500.00 MiB",
        "510.00 MiB",
        "520.00 MiB",
        allowed,
    ]


def test_a_device_that_does_not_tell_processes_apart_has_no_contexts(made_up_pair):
    pair = made_up_pair(GIB, GIB)
    silent = replace(pair.measured.measurement, context_bytes=None, device_used_bytes=None)
    (seen,) = verify([replaced(pair, measured=silent)]).contexts
    assert (seen.fresh, seen.trained) == ((), ())
    titles = [table.title for table in overview(verify([replaced(pair, measured=silent)]))]
    assert "What a process takes beside its tensors" not in titles


# The command


@pytest.fixture
def verify_command(monkeypatch, capsys, tmp_path):
    """Factory: run petl-bench verify in an empty folder; its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["petl-bench", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return left.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(record.model_dump_json() + "\n" for record in records))


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("there", [False, True])
def test_nothing_measured_is_refused_and_nothing_written(verify_command, there):
    if there:
        Path("benchmarks/reference").mkdir(parents=True)
    code, out, err = verify_command()
    assert (code, out) == (2, "")
    assert err.startswith("error: records: no measured one in benchmarks/reference; ")
    assert err.count("\n") == 1
    assert not Path("reports").exists()


def test_simulated_records_alone_are_nothing_measured(verify_command, made_up_record):
    write(Path("runs/records.jsonl"), made_up_record())
    code, _, err = verify_command("runs")
    assert (code, "no measured one in runs" in err) == (2, True)
    assert not Path("reports").exists()


@pytest.mark.usefixtures("no_cuda")
def test_a_suite_is_for_measuring(verify_command):
    assert verify_command("--suite", "grid.toml")[0] == 2
    code, _, err = verify_command("runs", "--suite", "grid.toml")
    assert (code, err) == (2, "error: suite: measures anew; leave it out, or the records\n")


def test_an_unknown_device_writes_nothing(verify_command, made_up_record):
    write(Path("a/records.jsonl"), made_up_record(origin=Origin.MEASURED, device="NVIDIA B200"))
    code, _, err = verify_command("a")
    assert (code, "'NVIDIA B200'" in err, "--gpu" in err) == (2, True, True)
    assert not Path("reports").exists()


@pytest.fixture
def simulated(monkeypatch):
    """Records to stand for what the workers would simulate, and the cards they were asked for."""
    records, asked = [], {}

    def simulate(measured, chosen):
        del measured
        asked.update({device: card.name for device, card in chosen.items()})
        return records

    monkeypatch.setattr(command, "_simulate", simulate)
    return records, asked


@pytest.mark.usefixtures("no_cuda")
def test_the_reference_is_read_where_nothing_is_named(verify_command, made_up_pair, simulated):
    pair = made_up_pair(10 * GIB, 11 * GIB)
    simulated[0].append(pair.simulated)
    write(Path("benchmarks/reference/a100/deep/t5.jsonl"), pair.measured)
    code, out, err = verify_command()
    assert (code, err) == (0, "report: reports/verify/verify.md\n")
    assert "worst +10.00 %" in out
    assert simulated[1] == CARDS


@pytest.mark.parametrize(("allowed", "code"), [("9.9", 1), ("10.1", 0)])
def test_fail_on_judges_the_whole_steps_worst_error(
    verify_command, made_up_pair, simulated, allowed, code
):
    pair = made_up_pair(10 * GIB, 9 * GIB)
    simulated[0].append(pair.simulated)
    write(Path("a.jsonl"), pair.measured)
    assert verify_command("a.jsonl", "--fail-on", allowed)[0] == code


def test_fail_on_does_not_pass_a_case_that_ended_otherwise(verify_command, made_up_pair, simulated):
    pair, other = made_up_pair(GIB, GIB), made_up_pair(GIB, GIB, "lora")
    simulated[0].extend([pair.simulated, other.simulated])
    write(Path("a.jsonl"), pair.measured, without_numbers(other.measured, Status.OOM))
    assert verify_command("a.jsonl")[0] == 0
    code, _, err = verify_command("a.jsonl", "--fail-on", "100")
    assert code == 1
    assert err.endswith("worst error 0 %, allowed 100 %; cases that ended otherwise: 1\n")


def test_a_comparison_without_a_number_does_not_pass(verify_command, made_up_pair, simulated):
    pair = made_up_pair(GIB, GIB)
    simulated[0].append(pair.simulated)
    write(Path("a.jsonl"), without_numbers(pair.measured, Status.ERROR))
    code, out, err = verify_command("a.jsonl", "--gpu", "h100")
    assert (code, "nothing was compared" in err) == (2, True)
    assert "error: a reason" in out
    assert simulated[1] == {A100: "h100"}


@pytest.mark.usefixtures("warm_processes")
def test_a_measured_t5_small_is_simulated_stored_and_compared(verify_command, made_up_record):
    """Measured is what a simulation says, each counter divided by 1.02: an error of 2 %."""
    measured = measured_t5_small(made_up_record)
    write(Path("ref/t5.jsonl"), measured)
    code, out, err = verify_command("ref", "--out", "out", "--fail-on", "1.9")
    assert (code, "worst error +2.00 %" in err) == (1, True)
    assert "median error 2.00 %, worst +2.00 % (bitfit on t5-small, fp32, batch 2)" in out
    (record,) = read_records(Path("out/simulated.jsonl"))
    assert record.case == measured.case
    assert (record.environment.device, record.measurement.timeline) == ("h100", ())
    assert record.environment.allocator_settings == "expandable_segments:True"
    page = Path("out/verify.md").read_text()
    assert "```sh\npetl-bench verify ref --out out --fail-on 1.9\n```" in page
    for counter in Counter:
        line = f"| {counter.replace('_', ' ')} | whole step | 1 | 2.00 % | +2.00 % | +2.00 % |"
        assert line in page
    assert "| NVIDIA H100 80GB HBM3 |" in page


def measured_t5_small(made_up_record):
    from petl_bench.profilers.simulated.profiler import simulate

    (planned,) = (
        planned
        for planned in Suite(
            methods=["bitfit"], backbone={"name": ["t5-small"]}, workload={"batch_size": [2]}
        ).plan()
        if planned.label == "bitfit"
    )
    with allocator_options("expandable_segments:True"):
        seen = asdict(simulate(planned.case, cards.find("h100")))
    for memory in (phase for step in seen["steps"] for phase in step.values()):
        memory["by_category"] = None
        for counter in Counter:
            memory[f"{counter}_bytes"] = round(memory[f"{counter}_bytes"] / 1.02)
    record = changed(
        made_up_record(origin=Origin.MEASURED, device="NVIDIA H100 80GB HBM3"),
        allocator_settings="expandable_segments:True",
    )
    told = {"case": planned.case, "case_id": planned.case.case_id, "label": planned.label}
    measurement = {**seen, "roofline": None, "fit": None, "timeline": ()}
    return Record.model_validate({**record.model_dump(), **told, "measurement": measurement})


def test_with_a_device_and_no_records_the_suite_is_measured_first(
    verify_command, monkeypatch, made_up_pair, simulated
):
    pair = made_up_pair(10 * GIB, 10 * GIB)
    simulated[0].append(pair.simulated)
    asked = []

    def run_plan(runner, plan, store):
        asked.append((runner.origin, len(plan), store.path))
        return [pair.measured]

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("petl_bench.cli.verify.run_plan", run_plan)
    assert verify_command("--out", "out")[0] == 0
    cases = 4 * len(registry.names())
    assert asked == [(Origin.MEASURED, cases, Path("out/measured/records.jsonl"))]


def test_the_built_in_suite_is_every_method_at_two_batches_and_dtypes():
    cases = [planned.case for planned in command._grid(None).plan()]
    settings = {(c.backbone.name, c.backbone.dtype, c.workload.batch_size) for c in cases}
    assert settings == {("t5-small", d, b) for d in ("fp32", "bf16") for b in (8, 32)}
    assert {case.method.name for case in cases} == set(registry.names())


@pytest.mark.parametrize("options", ["", "max_split_size_mb:128"])
def test_only_the_measured_allocator_options_reach_the_workers(monkeypatch, options):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    with allocator_options(options):
        assert os.environ.get("PYTORCH_ALLOC_CONF", "") == options
        assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_cases_are_simulated_in_one_run_a_card_and_allocator_setting(monkeypatch, made_up_record):
    records = [
        made_up_record("full", origin=Origin.MEASURED),
        made_up_record("lora", label="lora[r=8]", origin=Origin.MEASURED),
        made_up_record("full", origin=Origin.MEASURED, device="NVIDIA H200"),
    ]
    runs = []

    def run_plan(runner, plan, store):
        del store
        runs.append((runner.card.name, plan))
        return []

    monkeypatch.setattr("petl_bench.cli.verify.run_plan", run_plan)
    chosen = {r.environment.device: cards.of_device(r.environment.device) for r in records}
    command._simulate(records, chosen)
    planned = [PlannedCase(label=record.label, case=record.case) for record in records]
    assert runs == [("a100-80gb", planned[:2]), ("h200", planned[2:])]
