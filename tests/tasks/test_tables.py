"""Tables and the figure of made-up training records, with round numbers."""

from datetime import UTC, datetime

import pytest

from petl_bench.case import Backbone, MethodChoice
from petl_bench.errors import UsageError
from petl_bench.plots.score_figure import save_score_figure, score_figure
from petl_bench.record import Environment, Status
from petl_bench.tasks.record import (
    Data,
    Evaluation,
    Outcome,
    Recipe,
    SimulatedPeak,
    TrainingRecord,
    Trial,
)
from petl_bench.tasks.store import TrainingStore
from petl_bench.tasks.tables import summary, to_frame
from petl_bench.units import MIB

PLACE = Environment(
    device="a processor",
    platform="Linux",
    python="3.12",
    torch="2.13",
    transformers="5.23",
    peft="0.21",
    petl_bench="0.1",
)


def record(method, seed, accuracy, *, peak=None, measured=None, reason=None):
    trial = Trial(
        task="rte",
        data=Data(sha256="0", train_examples=2490, validation_examples=138, test_examples=139),
        backbone=Backbone(name="made-up", family="none", config={}),
        weights_sha256="1",
        method=MethodChoice(name=method),
        recipe=Recipe(
            batch_size=100,
            steps=500,
            warmup_steps=50,
            learning_rate=3e-4,
            max_length_tokens=128,
        ),
        seed=seed,
    )
    outcome = None
    if reason is None:
        looks = [
            Evaluation(step=250 * n, train_loss=1.0 / n, metrics={"accuracy": accuracy - 0.1 * n})
            for n in (1, 2)
        ]
        outcome = Outcome(
            evaluations=tuple(looks),
            best_step=250,
            test={"accuracy": accuracy},
            total_parameters=2_000_000,
            trainable_parameters=1_000_000,
            step_s=0.25,
            elapsed_s=200.0,
            peak_allocated_bytes=measured,
        )
    simulated = SimulatedPeak(
        card="a100-80gb",
        source_length_tokens=99,
        peak_allocated_bytes=peak or 0,
        peak_reserved_bytes=peak or 0,
    )
    return TrainingRecord(
        trial_id=trial.trial_id,
        trial=trial,
        label=method,
        status=Status.ERROR if reason else Status.OK,
        reason=reason,
        environment=PLACE,
        method_source_sha256="2",
        constant={"accuracy": 0.5},
        outcome=outcome,
        simulated=simulated if peak else None,
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


RECORDS = [
    record("first", 0, 0.6, peak=300 * MIB),
    record("second", 0, 0.7, peak=100 * MIB),
    record("first", 1, 0.7, peak=300 * MIB),
    record("second", 1, None, reason="the loss is nan at step 3"),
    record("first", 2, 0.8, peak=300 * MIB),
    record("third", 0, None, reason="no luck"),
]


def test_a_method_has_the_mean_of_its_seeds_and_their_spread():
    table = summary(RECORDS)
    shown = [[cell.text for cell in row] for row in table.rows]
    assert shown == [
        ["first", "3", "70.0", "10.0", "60.0", "1.00 M", "300.00 MiB", "250.0", "0.0003", "ok"],
        [
            *("second", "1", "70.0", "-", "60.0", "1.00 M", "100.00 MiB", "250.0", "0.0003"),
            "seed 1 error: the loss is nan at step 3",
        ],
        ["third", "0", *["-"] * 6, "0.0003", "seed 0 error: no luck"],
    ]
    assert table.title == "rte: made-up, 500 steps of 100 (2,490 examples), on a processor"
    assert "always saying the most frequent label scores 50.0" in table.caption


def test_measured_memory_has_a_column_of_its_own_where_there_is_any():
    assert "peak memory, measured" not in [c.header for c in summary(RECORDS).columns]
    beside = [
        record("first", seed, 0.6, peak=300 * MIB, measured=(seed + 1) * 100 * MIB)
        for seed in (0, 1)
    ]
    table = summary(beside)
    column = [c.header for c in table.columns].index("peak memory, measured")
    assert table.rows[0][column].text == "200.00 MiB"


def test_the_frame_has_a_row_a_record_and_nulls_where_there_is_no_number():
    frame = to_frame(RECORDS)
    assert list(frame["seed"]) == [0, 0, 1, 1, 2, 0]
    assert frame["simulated_peak_allocated_bytes"].iloc[0] == 300 * MIB
    assert frame["test_score"].isna().tolist() == [False, False, False, True, False, True]


def test_the_figure_has_a_point_a_method_with_its_spread(tmp_path):
    figure = score_figure(RECORDS)
    (axes,) = figure.axes
    points = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert [point for ((*point,),) in points] == [
        [300.0, pytest.approx(70.0)],
        [100.0, pytest.approx(70.0)],
    ]
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    assert bar[:, 1].tolist() == pytest.approx([60.0, 80.0])
    written = save_score_figure(RECORDS, tmp_path)
    assert [path.name for path in written] == ["score_memory.png", "score_memory.svg"]
    assert save_score_figure(RECORDS[-1:], tmp_path) == []


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
