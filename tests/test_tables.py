"""Tables: what they say about made-up records."""

from io import StringIO

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from petl_bench.case import Workload
from petl_bench.cli.output import print_costs
from petl_bench.record import Category, Fit, Origin, Phase, Status
from petl_bench.store import latest
from petl_bench.tables import (
    category_peaks,
    finding,
    groups,
    latest_rows,
    one_by_one,
    percent,
    phase_peaks,
    side_by_side,
    summary,
    to_csv,
    to_frame,
    to_latex,
    to_markdown,
    to_rich,
)
from petl_bench.units import GIB


def test_saving_is_the_share_of_full_fine_tunings_peak_that_is_not_needed(made_up_record):
    frame = to_frame([made_up_record("full"), made_up_record("lst", peak_bytes=4 * GIB)])
    assert frame["saving_percent"].tolist() == [0.0, 60.0]


@pytest.mark.parametrize(
    "difference",
    [
        {"backbone": "t5-large"},
        {"workload": Workload(batch_size=8)},
        {"origin": Origin.MEASURED},
        {"device": "h100"},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_no_saving_is_counted_against_another_backbone_workload_origin_or_device(
    made_up_record, difference
):
    frame = to_frame([made_up_record("full"), made_up_record("lst", **difference)])
    assert frame["saving_percent"].isna().tolist() == [False, True]


def test_a_baseline_that_ran_out_of_memory_gives_no_saving(made_up_record):
    records = [
        made_up_record("full", status=Status.OOM, reason="out of memory"),
        made_up_record("lst"),
    ]
    assert to_frame(records)["saving_percent"].isna().all()
    assert "No saving is given" in summary(records)[0].caption


def test_the_newest_baseline_that_finished_is_the_one_that_counts(made_up_record):
    records = [
        made_up_record("full", peak_bytes=8 * GIB),
        made_up_record("lst", peak_bytes=4 * GIB),
        made_up_record("full", peak_bytes=16 * GIB),
        made_up_record("full", status=Status.ERROR, reason="it broke"),
    ]
    assert to_frame(records)["saving_percent"][1] == 75.0


def test_trainable_percent_is_of_the_backbone_without_what_the_method_adds(made_up_record):
    frame = to_frame([made_up_record("lora", trainable=2_000_000)])
    assert frame["backbone_parameters"][0] == 200_000_000
    assert frame["total_parameters"][0] == 202_000_000
    assert frame["trainable_percent"][0] == 1.0


def test_absent_numbers_are_null_and_not_zero(made_up_record):
    failed = made_up_record("lst", status=Status.SKIPPED, reason="not supported")
    bare = made_up_record("lora", attributed=False, samples_per_s=None)
    frame = to_frame([failed, bare])
    said = ["method", "label", "backbone", "dtype", "attention", "optimizer", "origin", "device"]
    said += ["mode", "batch_size", "source_length_tokens", "target_length_tokens"]
    said += ["status", "reason", "case_id"]
    assert set(frame.columns[frame.iloc[0].notna()]) == set(said)
    assert frame.loc[1, [f"{category}_bytes" for category in Category]].isna().all()
    assert frame.loc[1, ["samples_per_s", "roofline_samples_per_s"]].isna().all()


def test_bytes_stay_whole_numbers_in_a_column_with_nulls(made_up_record):
    frame = to_frame([made_up_record(), made_up_record(status=Status.ERROR, reason="it broke")])
    byte_columns = [name for name in frame.columns if name.endswith("_bytes")]
    assert len(byte_columns) == 11 + len(Category)
    assert {str(frame[name].dtype) for name in byte_columns} == {"Int64"}


def test_the_categories_of_a_row_sum_to_its_peak(made_up_records):
    frame = to_frame(made_up_records())
    total = frame[[f"{category}_bytes" for category in Category]].sum(axis=1)
    assert total.tolist() == frame["peak_allocated_bytes"].tolist()


def test_an_empty_list_of_records_is_a_frame_with_columns_and_no_rows():
    frame = to_frame([])
    assert len(frame) == 0
    assert "peak_allocated_bytes" in frame.columns


_WRITTEN = st.tuples(
    st.sampled_from(["full", "lora", "lst"]), st.sampled_from(Origin), st.integers(1, 9)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(written=st.lists(_WRITTEN, max_size=12))
def test_the_latest_rows_are_those_of_the_latest_records(written, made_up_record):
    records = [
        made_up_record(method, origin=origin, peak_bytes=gib * GIB)
        for method, origin, gib in written
    ]
    rows = latest_rows(to_frame(records))
    pd.testing.assert_frame_equal(rows, to_frame(latest(records)))


def test_measured_throughput_is_by_the_median_step_and_an_estimate_never_fills_in(made_up_record):
    frame = to_frame([made_up_record(origin=Origin.MEASURED), made_up_record()])
    assert frame["samples_per_s"][0] == pytest.approx(200)  # the slow third step does not count
    assert frame["roofline_samples_per_s"][1] == pytest.approx(200)
    assert frame["samples_per_s"].isna().tolist() == [False, True]
    assert frame["roofline_samples_per_s"].isna().tolist() == [True, False]


def test_measured_and_simulated_numbers_never_share_a_table(made_up_record):
    records = [
        made_up_record("full"),
        made_up_record("full", origin=Origin.MEASURED),
        made_up_record("lst"),
    ]
    tables = summary(records)
    setting = "t5-base, fp32, eager, batch 100, source 128, target 3, adamw"
    assert [table.title for table in tables] == [
        f"{setting}: simulated for a100-80gb",
        f"{setting}: measured on NVIDIA A100-SXM4-80GB",
    ]
    assert [[row[0].text for row in table.rows] for table in tables] == [["full", "lst"], ["full"]]
    headers = [[column.header for column in table.columns] for table in tables]
    assert "samples/s (roofline estimate)" in headers[0]
    assert "samples/s (measured)" in headers[1]


def test_a_title_names_whatever_of_the_workload_is_not_the_default(made_up_record):
    (group,) = groups([made_up_record(workload=Workload(seed=3, clip_grad_norm=None))])
    assert group.setting.endswith("adamw, clip grad norm None, seed 3")


def test_a_target_is_named_where_there_is_one(made_up_record):
    settings = [
        groups([made_up_record(workload=Workload(target_length_tokens=length))])[0].setting
        for length in (3, None)
    ]
    assert "source 128, target 3" in settings[0]
    assert "source 128, adamw" in settings[1]


def test_a_summary_as_markdown(made_up_record):
    records = [
        made_up_record("full", peak_bytes=16 * GIB),
        made_up_record("lora", label="lora[r=8]", peak_bytes=12 * GIB, trainable=884_736),
        made_up_record(
            "ia3",
            label="ia3|x",
            status=Status.OOM,
            reason="out of memory in backward",
            requested_bytes=2 * GIB,
        ),
    ]
    (table,) = summary(records)
    expected = r"""
**t5-base, fp32, eager, batch 100, source 128, target 3, adamw: simulated for a100-80gb**

| method | trainable | % of backbone | peak allocated | peak reserved | saving | FLOPs per step | \
samples/s (roofline estimate) | status |
| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | :--- |
| full | 200.0 M | 100.00 % | 16.00 GiB | 16.25 GiB | 0.0 % | 12.30 T | 200 | ok |
| lora[r=8] | 884.7 k | 0.44 % | 12.00 GiB | 12.25 GiB | 25.0 % | 12.30 T | 200 | ok |
| ia3\|x | - | - | - | - | - | - | - | \
oom: out of memory in backward (requested 2.00 GiB) |

Saving: peak allocated, against 16.00 GiB of full fine-tuning. Memory is simulated; \
samples/s is a roofline estimate, not a measurement.
"""
    assert to_markdown(table) == expected.replace("\\\n", "").lstrip("\n")


def test_the_peaks_of_phases_stand_in_the_summary_on_demand(made_up_record):
    (table,) = summary([made_up_record(peak_bytes=8 * GIB)], phases=True)
    texts = dict(zip((c.header for c in table.columns), table.rows[0], strict=True))
    phases = [texts[name].text for name in ("forward", "backward", "optimizer step")]
    assert phases == ["6.00 GiB", "8.00 GiB", "4.00 GiB"]


def test_tables_of_phases_and_categories_leave_out_what_did_not_finish(made_up_record):
    records = [made_up_record("full"), made_up_record(status=Status.ERROR, reason="it broke")]
    for (table,) in (phase_peaks(records), category_peaks(records)):
        assert [row[0].text for row in table.rows] == ["full"]


def test_a_frame_as_csv_keeps_whole_numbers_and_leaves_nulls_empty(made_up_record):
    records = [made_up_record("full"), made_up_record(status=Status.ERROR, reason="a, b")]
    frame = to_frame(records)[["label", "reason", "peak_allocated_bytes", "saving_percent"]]
    assert to_csv(frame) == (
        'label,reason,peak_allocated_bytes,saving_percent\nfull,,10737418240,0.0\nfull,"a, b",,\n'
    )


def test_the_terminal_shows_brackets_as_written_and_reasons_below(made_up_record):
    records = [
        made_up_record("lora", label="lora[r=8]"),
        made_up_record("x", label="[red]x", status=Status.SKIPPED, reason="no [bold] here"),
    ]
    console = Console(width=110, file=StringIO(), record=True)
    console.print(to_rich(summary(records)[0]))
    text = console.export_text()
    assert "lora[r=8]" in text
    assert "[red]x: skipped: no [bold] here" in text


def _printed(table, width):
    console = Console(width=width, file=StringIO(), record=True)
    console.print(to_rich(table))
    return console.export_text()


def _words(text):
    return set(text.split())


@pytest.mark.parametrize("phases", [False, True])
@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_shows_every_number_and_breaks_no_word_of_a_header(
    made_up_records, width, phases
):
    (table,) = summary(made_up_records(14), phases=phases)
    text = _printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    headers = {word for column in table.columns for word in column.header.split()}
    assert headers <= _words(text)
    numbers = {word for row in table.rows for cell in row[1:] for word in cell.text.split()}
    assert {word for word in numbers if word[0].isdigit()} <= _words(text)


def test_a_table_fits_eighty_columns_in_one_piece_with_its_units_above(made_up_record):
    records = [
        made_up_record("full", peak_bytes=16 * GIB),
        made_up_record("lst", label="lst[variant=lean]", peak_bytes=4 * GIB, trainable=3_878_712),
    ]
    (table,) = summary(records)
    lines = [line.rstrip() for line in _printed(table, 80).splitlines()]
    (rule,) = [at for at, line in enumerate(lines) if line and set(line) == {"\u2500"}]
    assert lines[rule - 1].split() == [
        *("method", "(M)", "backbone", "(GiB)", "(GiB)", "(%)", "(T)", "estimate)", "status")
    ]
    full, *lst = lines[rule + 1 : -2]
    assert full.split() == [
        *("full", "200.0", "100.00", "16.00", "16.25", "0.0", "12.30", "200", "ok")
    ]
    assert "".join(line.split()[0] for line in lst) == "lst[variant=lean]"
    assert _printed(table, 200).count("16.00 GiB") == 2  # once in the caption


def test_what_has_no_room_beside_follows_below_with_the_labels(made_up_records):
    (table,) = summary(made_up_records(3), phases=True)
    lines = _printed(table, 80).splitlines()
    assert len([line for line in lines if line.strip() and set(line.strip()) == {"\u2500"}]) == 2
    assert len([line for line in lines if line.startswith("lora[r=8]")]) == 2


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0.0, 1, "0.0 %"),
        (58.36, 1, "58.4 %"),
        (27.0, 1, "27.0 %"),
        (0.81, 1, "0.8 %"),
        (1.744, 2, "1.74 %"),
        (100.0, 2, "100.00 %"),
        (0.0342, 2, "0.03 %"),
        (0.00002, 2, "< 0.01 %"),
        (-0.00002, 1, "> -0.1 %"),
        (-19.49, 1, "-19.5 %"),
    ],
)
def test_a_percent_has_the_decimals_of_its_column_and_is_never_zero_where_it_is_not(
    share, decimals, text
):
    assert percent(share, decimals) == text


@pytest.mark.parametrize(
    ("cases", "sentence"),
    [
        (
            [("full", {"peak_bytes": 16 * GIB}), ("lst", {"peak_bytes": 4 * GIB})],
            (
                "lst saves most: 4.00 GiB at peak instead of 16.00 GiB, 75.0 % less than full"
                " fine-tuning, training 100.00 % of the parameters."
            ),
        ),
        (
            [("full", {"status": Status.OOM, "reason": "no room"}), ("lst", {})],
            "lst needs 10.00 GiB at peak, the least of 1; full fine-tuning has no numbers here.",
        ),
        ([("full", {})], "full needs 10.00 GiB at peak; no other method finished."),
        (
            [("full", {}), ("dora", {"peak_bytes": 11 * GIB})],
            "No method saves memory: dora needs 11.00 GiB at peak, full fine-tuning 10.00 GiB.",
        ),
        (
            [("full", {"status": Status.ERROR, "reason": "it broke"})],
            "No case of 1 finished.",
        ),
    ],
    ids=["saves", "baseline failed", "alone", "saves nothing", "nothing finished"],
)
def test_the_finding_is_one_sentence(made_up_record, cases, sentence):
    (group,) = groups([made_up_record(method, **options) for method, options in cases])
    assert finding(group) == sentence


def test_what_was_larger_than_its_card_before_records_told_what_fits_is_said_in_the_caption(
    made_up_record,
):
    """The made-up card has 80 GiB; a record reserves a quarter GiB beyond its peak."""
    records = [
        made_up_record("full", peak_bytes=90 * GIB),
        made_up_record("lora", peak_bytes=80 * GIB),
        made_up_record("lst", peak_bytes=79 * GIB),
    ]
    (table,) = summary(records)
    assert table.caption.endswith("full and lora do not fit into the 80.00 GiB of a100-80gb.")
    (alone,) = summary(records[1:])
    assert alone.caption.endswith("lora does not fit into the 80.00 GiB of a100-80gb.")
    (fitting,) = summary(records[2:])
    assert "fit" not in fitting.caption


def test_a_case_that_is_too_large_for_its_card_keeps_its_numbers_and_says_what_did_not_fit(
    made_up_record, refused
):
    records = [
        made_up_record("full", peak_bytes=12 * GIB, fit=refused()),
        made_up_record("lora", peak_bytes=10 * GIB, fit=Fit(capacity_bytes=10 * GIB)),
        made_up_record("lst", peak_bytes=5 * GIB, fit=Fit(capacity_bytes=10 * GIB)),
    ]
    (table,) = summary(records)
    large, *others = [row[-1].text for row in table.rows]
    assert large == (
        "too large: no room in backward for 2.00 GiB (gradient, aten::mm)"
        " with 9.00 GiB of 10.00 GiB reserved"
    )
    assert others == ["ok", "ok"]
    assert table.rows[0][3].text == "12.00 GiB"
    room = "10.00 GiB that a100-80gb has for tensors"
    assert table.caption.endswith(
        f"full does not fit into the {room}."
        f" lora fits into the {room} only by giving cached memory back."
    )
    frame = to_frame([*records, made_up_record("adapter")])
    assert frame["fits"].tolist() == [False, True, True, pd.NA]
    assert frame["capacity_bytes"].tolist() == [*[10 * GIB] * 3, pd.NA]
    assert frame["status"].tolist() == ["ok"] * 4


def test_weights_that_are_too_large_have_no_operator_that_asked(made_up_record, refused):
    fit = refused("(loaded)", Phase.LOAD, Category.PARAMETER)
    (table,) = summary([made_up_record(fit=fit)])
    assert "no room in load for 2.00 GiB (parameter) with" in table.rows[0][-1].text


def test_a_terminal_names_the_ending_in_a_word_and_the_reason_below(made_up_record, refused):
    out = StringIO()
    Console(file=out, width=200).print(to_rich(summary([made_up_record(fit=refused())])[0]))
    said = out.getvalue()
    assert "too large\n" in "\n".join(line.rstrip() for line in said.splitlines())
    assert "full: too large: no room in backward" in said


def test_a_latex_table_has_every_cell_and_no_character_that_latex_reads(made_up_record):
    (table,) = summary([made_up_record("full", label=r"a_b&c%d#e$f{g}~^<")])
    text = to_latex(table)
    assert text.count(r" \\") == 1 + len(table.rows)
    assert text.count("&") == 2 * (len(table.columns) - 1) + 1
    assert r"a\_b\&c\%d\#e\$f\{g\}\textasciitilde{}\textasciicircum{}" in text
    assert r"\begin{tabular}{l" in text


def test_a_change_that_rounds_to_zero_has_no_sign(made_up_record):
    records = [
        made_up_record("full", device=device, peak_bytes=10 * GIB + more)
        for device, more in (("a100-80gb", 0), ("h100", -1024), ("t4", 2**28))
    ]
    (row,) = side_by_side(records).rows
    assert [cell.text for cell in row[1:]] == [
        *("10.00 GiB", "10.00 GiB (0.0 %)", "10.25 GiB (+2.5 %)")
    ]


def test_one_group_has_nothing_beside_it(made_up_records):
    assert side_by_side(made_up_records(3)) is None


def test_many_groups_have_a_row_each_and_one_that_did_not_finish_has_dashes(made_up_record):
    small = Workload(batch_size=8)
    records = [
        made_up_record("full"),
        made_up_record("lst", peak_bytes=4 * GIB),
        made_up_record("lora", peak_bytes=5 * GIB, workload=small),
        made_up_record("lora", status=Status.OOM, reason="no room", backbone="bert-base"),
    ]
    table = one_by_one(records)
    assert [column.header for column in table.columns] == [
        *("run", "least", "least peak", "saving", "full", "lst", "lora")
    ]
    assert [[cell.text for cell in row[1:]] for row in table.rows] == [
        ["lst", "4.00 GiB", "60.0 %", "10.00 GiB", "4.00 GiB", "-"],
        ["lora", "5.00 GiB", "-", "-", "-", "5.00 GiB"],
        ["-", "-", "-", "-", "-", "-"],
    ]


def test_several_groups_end_with_an_overview_in_the_terminal(made_up_record, capsys):
    alone = [made_up_record("full"), made_up_record("lst", peak_bytes=4 * GIB)]
    print_costs(alone)
    assert "runs" not in capsys.readouterr().out
    print_costs([*alone, made_up_record("full", backbone="bert-base")])
    (before, after) = capsys.readouterr().out.split("2 runs\n")
    assert before.count("trainable") == 2
    assert [line.split()[0] for line in after.splitlines()[2:4]] == ["t5-base", "bert-base"]
