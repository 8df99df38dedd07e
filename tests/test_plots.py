"""Figures: the data they draw, their labels and units; never their pixels."""

import hashlib
from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.text import Annotation, Text

from petl_bench.plots import pareto, peak_by_category, save_figures, timeline
from petl_bench.plots.drawing import add_title, blank_figure
from petl_bench.record import Origin, Phase, Status
from petl_bench.series import bars, frontier, points, timelines
from petl_bench.tables import groups
from petl_bench.units import GIB, MIB


def _texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def _only(records):
    (group,) = groups(records)
    return group


def test_bars_stack_up_to_the_peak_in_gib(made_up_record):
    (axes,) = peak_by_category([made_up_record("full", peak_bytes=16 * GIB)]).axes
    assert sum(patch.get_width() for patch in axes.patches) == pytest.approx(16)
    assert axes.get_xlabel() == "peak allocated memory (GiB)"


def test_a_small_peak_is_drawn_in_mib(made_up_record):
    figure = peak_by_category([made_up_record("full", peak_bytes=960 * MIB, trainable=1)])
    assert figure.axes[0].get_xlabel() == "peak allocated memory (MiB)"
    assert sum(patch.get_width() for patch in figure.axes[0].patches) == pytest.approx(960)


def test_bars_are_largest_first_and_end_with_what_is_saved(made_up_record):
    records = [
        made_up_record("lst", peak_bytes=4 * GIB),
        made_up_record("ia3", status=Status.OOM, reason="out of memory"),
        made_up_record("full", peak_bytes=16 * GIB),
        made_up_record("dora", peak_bytes=20 * GIB),
    ]
    assert [(bar.label, bar.note) for bar in bars(_only(records))] == [
        ("dora", "20.00 GiB  +25 %"),
        ("full", "16.00 GiB"),
        ("lst", "4.00 GiB  -75 %"),
        ("ia3", "out of memory"),
    ]
    assert {"-75 %", "+25 %", "out of memory"} <= set(_texts(peak_by_category(records)))


def test_a_peak_that_no_one_told_apart_is_one_bar_without_categories(made_up_record):
    figure = peak_by_category([made_up_record("full", attributed=False)])
    assert [patch.get_width() for patch in figure.axes[0].patches] == [10]
    assert "not told apart" in _texts(figure)


def test_the_title_says_backbone_setting_and_origin(made_up_record):
    simulated = _texts(peak_by_category([made_up_record()]))
    assert "Peak training memory of t5-base, by category" in simulated
    setting = "fp32, eager, batch 100, source 128, target 3, adamw"
    assert f"Simulated for a100-80gb: {setting}" in simulated
    measured = _texts(peak_by_category([made_up_record(origin=Origin.MEASURED)]))
    assert f"Measured on NVIDIA A100-SXM4-80GB: {setting}" in measured


def test_a_figure_refuses_records_that_may_not_be_compared(made_up_record):
    records = [made_up_record(), made_up_record(origin=Origin.MEASURED)]
    with pytest.raises(ValueError, match="one group"):
        peak_by_category(records)


def test_the_frontier_holds_the_methods_that_no_other_beats_in_both(made_up_record):
    records = [
        made_up_record("full", peak_bytes=16 * GIB, trainable=200),
        made_up_record("lora", peak_bytes=12 * GIB, trainable=10),
        made_up_record("adapters", peak_bytes=13 * GIB, trainable=20),
        made_up_record("lst", peak_bytes=5 * GIB, trainable=30),
    ]
    found = points(_only(records), "trainable_parameters")
    assert [point.label for point in found if point.best] == ["lora", "lst"]
    corners = frontier(found, "trainable_parameters")
    assert corners[1:-1] == [(30, 5 * GIB), (30, 12 * GIB), (10, 12 * GIB)]


def test_more_throughput_is_better_and_fewer_parameters_are(made_up_record):
    records = [
        made_up_record("slow", trainable=1, samples_per_s=10),
        made_up_record("fast", trainable=2, samples_per_s=20),
    ]
    best = {
        x: [point.label for point in points(_only(records), x) if point.best]
        for x in ("trainable_parameters", "throughput")
    }
    assert best == {"trainable_parameters": ["slow"], "throughput": ["fast"]}


def test_the_throughput_axis_says_measured_or_estimate(made_up_record):
    estimate = pareto([made_up_record()], "throughput")
    assert estimate.axes[0].get_xlabel() == "throughput in samples/s (roofline estimate)"
    measured = pareto([made_up_record(origin=Origin.MEASURED)], "throughput")
    assert measured.axes[0].get_xlabel() == "throughput in samples/s (measured)"


@pytest.mark.parametrize("count", [1, 6, 14])
@pytest.mark.parametrize("x", ["trainable_parameters", "throughput"])
def test_labels_of_points_do_not_overlap_and_stay_inside(made_up_records, count, x):
    figure = pareto(made_up_records(count), x)
    figure.draw_without_rendering()
    labels = [label for label in figure.findobj(Annotation) if label.get_text()]
    boxes = [Text.get_window_extent(label) for label in labels]
    assert len(boxes) == count
    assert not [(one, other) for one, other in combinations(boxes, 2) if one.overlaps(other)]
    room = figure.axes[0].bbox.padded(1)
    assert all(room.contains(*box.min) and room.contains(*box.max) for box in boxes)


@pytest.mark.parametrize("count", [3, 8, 20])
def test_a_legend_of_many_stays_on_the_page_and_above_the_axes(count):
    figure, (axes,) = blank_figure(5.2, 1)
    for number in range(count):
        axes.plot([0, 1], [number, number], label=f"adapter[reduction={number}]")
    add_title(figure, "Memory", "made up")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y0 >= axes.get_tightbbox().y1
    assert len(legend.get_texts()) == count


def test_a_thinned_timeline_keeps_its_peak_and_its_phases(made_up_record):
    record = made_up_record(events=20_000)
    (found,) = timelines(_only([record]))
    assert len(found.points) <= 600
    assert max(point.allocated_bytes for point in found.points) == found.peak_bytes
    assert found.peak_bytes == max(p.allocated_bytes for p in record.measurement.timeline)
    assert found.bands == (
        (Phase.FORWARD, 0, 8_000),
        (Phase.BACKWARD, 8_000, 18_000),
        (Phase.OPTIMIZER_STEP, 18_000, 20_000),
    )


def test_a_timelines_events_count_from_the_steps_first(made_up_record):
    record = made_up_record(events=50)
    late = [replace(point, event=point.event + 900) for point in record.measurement.timeline]
    measurement = replace(record.measurement, timeline=tuple(late))
    (found,) = timelines(_only([record.model_copy(update={"measurement": measurement})]))
    assert found.events == tuple(range(50))
    assert found.bands[0] == (Phase.FORWARD, 0, 20)
    assert found.bands[-1] == (Phase.OPTIMIZER_STEP, 45, 50)


def test_a_timeline_has_a_panel_a_method_and_the_phases_by_name(made_up_records):
    figure = timeline(made_up_records(3))
    assert len(figure.axes) == 3
    assert figure.axes[0].get_ylabel() == "allocated (GiB)"
    assert {"forward", "backward", "optimizer step"} <= set(_texts(figure))


def test_figures_are_saved_as_png_and_svg_the_same_bytes_each_time(made_up_records, tmp_path):
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in save_figures(records, folder)]
        for records, folder in [
            (made_up_records(3), tmp_path / "one"),
            (made_up_records(3), tmp_path / "two"),
        ]
    ]
    assert digests[0] == digests[1]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        f"{name}.{suffix}"
        for name in (
            "pareto_throughput",
            "pareto_trainable_parameters",
            "peak_by_category",
            "timeline",
        )
        for suffix in ("png", "svg")
    ]


def test_figures_without_data_are_left_out(made_up_record, tmp_path):
    records = [
        made_up_record("full", events=0, samples_per_s=None),
        made_up_record("lst", status=Status.ERROR, reason="it broke"),
    ]
    names = [path.name for path in save_figures(records, tmp_path) if path.suffix == ".svg"]
    assert names == ["peak_by_category.svg", "pareto_trainable_parameters.svg"]
    assert save_figures(records[1:], tmp_path) == []


def test_figures_of_several_groups_are_named_after_the_group(made_up_record, tmp_path):
    records = [made_up_record(backbone=name, events=0, samples_per_s=None) for name in ("a/b", "c")]
    names = [path.name for path in save_figures(records, tmp_path)]
    setting = "fp32-eager-batch-100-source-128-target-3-adamw-simulated-for-a100-80gb"
    assert names[0] == f"peak_by_category-1-a-b-{setting}.png"
    assert len(set(names)) == 8
