"""Tables and the figure of made-up training records, with round numbers."""

import pytest

from petl_bench.errors import UsageError
from petl_bench.plots.score_figure import relative_figure, save_score_figures, score_figure
from petl_bench.tasks.boards import averages, board, boards, curves, frontier
from petl_bench.tasks.rows import latest, task_groups
from petl_bench.tasks.store import TrainingStore
from petl_bench.tasks.tables import average_table, runs_table, summary, to_frame
from petl_bench.units import MIB

from .made_up import record, records


def only(found):
    (group,) = task_groups(found)
    return group


RECORDS = [
    record("full", 0, 0.6, peak=300 * MIB),
    record("bitfit", 0, 0.7, peak=100 * MIB),
    record("full", 1, 0.7, peak=300 * MIB),
    record("bitfit", 1, None, reason="the loss is nan at step 3"),
    record("full", 2, 0.8, peak=300 * MIB),
    record("prompt", 0, None, reason="no luck"),
]


def test_a_method_has_the_mean_of_its_seeds_and_their_spread():
    table = summary(only(RECORDS))
    shown = [[cell.text for cell in row] for row in table.rows]
    assert shown == [
        ["full", "3", "70.0", "10.0", "60.0", "1.00 M", "300.00 MiB", "250.0", "0.0003", "ok"],
        [
            *("bitfit", "1", "70.0", "-", "60.0", "1.00 M", "100.00 MiB", "250.0", "0.0003"),
            "seed 1 error: the loss is nan at step 3",
        ],
        ["prompt", "0", *["-"] * 6, "0.0003", "seed 0 error: no luck"],
    ]
    assert table.title == "rte: made-up, 500 steps of 100 (2,490 examples), on a processor"
    assert "always saying the most frequent label scores 50.0" in table.caption


def test_measured_memory_has_a_column_of_its_own_where_there_is_any():
    assert "peak memory, measured" not in [c.header for c in summary(only(RECORDS)).columns]
    beside = [
        record("full", seed, 0.6, peak=300 * MIB, measured=(seed + 1) * 100 * MIB)
        for seed in (0, 1)
    ]
    table = summary(only(beside))
    column = [c.header for c in table.columns].index("peak memory, measured")
    assert table.rows[0][column].text == "200.00 MiB"


def test_the_frame_has_a_row_a_record_and_nulls_where_there_is_no_number():
    frame = to_frame(RECORDS)
    assert list(frame["seed"]) == [0, 0, 1, 1, 2, 0]
    assert frame["simulated_peak_allocated_bytes"].iloc[0] == 300 * MIB
    assert frame["test_score"].isna().tolist() == [False, False, False, True, False, True]


def test_energy_has_a_column_where_it_is_known():
    assert "energy of a run (kJ)" not in [c.header for c in summary(only(RECORDS)).columns]
    found = [record("full", 0, 0.6, energy=3000.0), record("full", 1, 0.6, energy=4000.0)]
    table = summary(only([*found, record("bitfit", 0, 0.6)]))
    column = [c.header for c in table.columns].index("energy of a run (kJ)")
    assert [row[column].text for row in table.rows] == ["3.5", "-"]
    assert to_frame(found)["energy_j"].tolist() == [3000.0, 4000.0]


def test_what_differs_in_the_recipe_has_a_column():
    assert "steps" not in [column.header for column in summary(only(RECORDS)).columns]
    longer = [*RECORDS, record("full", 0, 0.9, steps=1000, peak=300 * MIB)]
    table = summary(only(longer))
    column = [c.header for c in table.columns].index("steps")
    assert [row[column].text for row in table.rows] == ["500", "500", "500", "1,000"]
    assert table.title == "rte: made-up, 2,490 examples, on a processor"


def test_every_run_is_listed():
    shown = [[cell.text for cell in row] for row in runs_table(only(RECORDS)).rows]
    assert shown[0][:9] == [*("full", "0", "0.0003", "60.0", "50.0", "250", "500", "0.5000", "200")]
    assert shown[3][3:9] == ["-", "-", "-", "500", "-", "-"]
    assert shown[3][-1] == "error: the loss is nan at step 3"


def test_of_two_learning_rates_the_one_that_validation_prefers_stands():
    found = [
        record("full", 0, 0.9, rate=1e-3, validation=0.6),
        record("full", 0, 0.8, rate=1e-4, validation=0.7),
    ]
    assert [row[1].text for row in summary(only(found)).rows] == ["1", "1"]
    (standing,) = board(only(found)).standings
    assert standing.scores == (0.8,)


def test_a_method_at_several_sizes_is_a_curve():
    found = board(only(records()))
    by_name = {curve.name: curve.spots for curve in curves(found, "simulated_bytes")}
    names = ["full", "lora", "adapter", "bitfit", "prompt", "lst"]
    assert list(by_name) == [*names, "lst[reduction=4,initialise=fisher]"]
    lora = by_name["lora"]
    assert [spot.short for spot in lora] == ["lora r=4", "lora r=16", "lora r=64"]
    assert [spot.x for spot in lora] == [620 * MIB, 626 * MIB, 650 * MIB]
    assert [spot.x for spot in by_name["lst"]] == [240 * MIB, 270 * MIB, 340 * MIB]
    assert lora[0].score == pytest.approx(0.84)
    assert lora[0].spread == pytest.approx(0.006)


def test_the_frontier_is_what_nothing_smaller_beats():
    found = [
        record("lst", 0, 0.7, peak=100 * MIB),
        record("bitfit", 0, 0.7, peak=200 * MIB),  # as good, and larger
        record("lora", 0, 0.8, peak=300 * MIB),
        record("adapter", 0, 0.75, peak=300 * MIB),
        record("full", 0, 0.9, peak=900 * MIB),
        record("prompt", 0, 0.95),  # of a size that no one knows
    ]
    drawn = curves(board(only(found)), "simulated_bytes")
    assert frontier(drawn) == [(100 * MIB, 0.7), (300 * MIB, 0.8), (900 * MIB, 0.9)]


def test_an_average_is_of_the_methods_and_seeds_that_every_task_has():
    found = [
        record("full", 0, 0.6, peak=300 * MIB),
        record("full", 1, 0.7, peak=300 * MIB),
        record("bitfit", 0, 0.5, peak=100 * MIB),
        record("full", 0, 0.8, peak=100 * MIB, task="reviews"),
        record("full", 1, 0.7, peak=100 * MIB, task="reviews"),
        record("full", 2, 0.1, peak=100 * MIB, task="reviews"),
        record("bitfit", 0, None, reason="no luck", task="reviews"),
        record("full", 0, 0.1, device="another", task="reviews"),
        record("full", 0, 0.1, backbone="another", task="cola"),
    ]
    (average,) = averages(task_groups(found))
    assert average.title == "average of rte, reviews: made-up, on a processor"
    assert average.name == "average of 2 tasks"
    (standing,) = average.standings
    assert standing.scores == pytest.approx((0.7, 0.7))
    assert standing.simulated_bytes == 200 * MIB
    assert [cell.text for cell in average_table(average).rows[0]] == [
        *("full", "2", "70.0", "0.0", "1.00 M", "200.00 MiB", "250.0")
    ]
    assert [each.name for each in boards(found)] == [
        *("average of 2 tasks", "rte", "reviews", "reviews", "cola")
    ]


def test_of_a_trial_twice_the_last_counts():
    first, again = record("full", 0, None, reason="no luck"), record("full", 0, 0.7)
    other = record("bitfit", 0, 0.6)
    assert latest([first, other, again]) == [again, other]


def test_the_figure_has_a_curve_a_method_with_its_spread(tmp_path):
    found = board(only(RECORDS))
    figure = score_figure(found)
    (axes,) = figure.axes
    points = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert [point for ((*point,),) in points] == [
        [300.0, pytest.approx(70.0)],
        [100.0, pytest.approx(70.0)],
    ]
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    assert bar[:, 1].tolist() == pytest.approx([60.0, 80.0])
    written = save_score_figures([found], tmp_path)
    names = ["score_memory", "score_parameters", "score_published"]
    assert [path.name for path in written] == [f"{n}.{e}" for n in names for e in ("png", "svg")]
    assert save_score_figures([board(only(RECORDS[-1:]))], tmp_path) == []
    figure = score_figure(board(only(records())), "trainable_parameters")
    lora = figure.axes[0].containers[1].lines[0].get_xydata()[:, 0].tolist()
    assert lora == [74_000, 295_000, 1_180_000]


def test_published_points_stand_behind_ours_by_share_and_difference():
    from petl_bench.papers.scores import published

    on_rte = {point.label: point for point in published("rte")}
    lst = on_rte["LST (T5-base)"]
    assert lst.memory_percent == pytest.approx(100 * 5.5 / 17.6)
    assert lst.gain_points == pytest.approx(71.9 - 74.1)
    assert lst.scored == "rte"
    assert "from memory of the paper" in lst.source
    assert "Full fine-tuning" not in on_rte  # 100 % and 0 points, by definition
    average = {point.label: point for point in published("reviews")}
    assert average["LoRA"].gain_points == pytest.approx(0.1)
    assert average["LoRA"].scored == "published GLUE average"
    assert [point.label for point in published("cola") if point.far] == ["Prompt tuning"]
    found = board(only(records(tasks=("rte",))))
    (axes,) = relative_figure(found, published("rte")).axes
    theirs = axes.collections[0].get_offsets().tolist()
    assert theirs[-1] == pytest.approx([31.25, -2.2])
    full, lora = (axes.containers[n].lines[0].get_xydata().tolist() for n in (0, 1))
    assert full == [[100.0, 0.0]]
    assert lora[0] == pytest.approx([100 * 620 / 900, -2.0])
    without = board(only(records(tasks=("rte",))[3:]))
    assert relative_figure(without, published("rte")) is None


def test_a_store_cuts_a_half_line_and_names_a_bad_one(tmp_path):
    store = TrainingStore(tmp_path)
    for each in RECORDS[:2]:
        store.append(each)
    whole = store.path.read_bytes()
    store.path.write_bytes(whole + whole[:40])
    assert TrainingStore(tmp_path).records == RECORDS[:2]
    assert store.path.read_bytes() == whole
    store.path.write_bytes(whole + b'{"schema_version": 2}\n')
    with pytest.raises(UsageError, match=r"training.jsonl line 3 is not a record: schema_version"):
        TrainingStore(tmp_path)
    assert store.path.read_bytes().startswith(whole)
