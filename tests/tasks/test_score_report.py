"""The page about training records: what it says, and that it works in a browser."""

import json
import os
import re
import shlex
from pathlib import Path

import plotly.graph_objects as go
import pytest
from typer.testing import CliRunner

from petl_bench.cli import app
from petl_bench.errors import UsageError
from petl_bench.plots.score_figure import score_figure
from petl_bench.report.reproduction import train_commands
from petl_bench.report.scores import write_score_report
from petl_bench.tasks.boards import boards, curves, looks
from petl_bench.tasks.rates import parse
from petl_bench.tasks.rows import task_groups
from petl_bench.tasks.store import TrainingStore
from petl_bench.units import MIB

from .made_up import record, records

HOSTILE = "</script><script>alert('x')</script>"
ATTACK = "<img src=x onerror=alert(1)>"


@pytest.fixture
def write(tmp_path):
    def write(found, command="petl-bench report a b"):
        path = tmp_path / "report.html"
        write_score_report(found, path, command=command)
        return path

    return write


@pytest.fixture
def show(open_page, write):
    return lambda found, **options: open_page(write(found), **options)


def two_tasks():
    return [*records(tasks=("rte", "reviews"), lower=0.05), record("ia3", 0, None, reason="broke")]


def charts_of(path):
    text = path.read_text()
    return json.loads(re.search(r'id="charts">(.*?)</script>', text, re.DOTALL)[1])


def test_a_chart_has_the_numbers_of_the_records(write):
    charts = charts_of(write(records(tasks=("rte",), count=4)))
    for chart in charts.values():
        go.Figure(chart)
    frontier, full, lora = charts["g1-0-0"]["data"]
    assert full["y"] == [pytest.approx(86.0)]
    assert lora["x"] == [620, 626, 650]
    assert lora["y"] == pytest.approx([84, 85, 85.5])
    assert lora["error_y"]["array"] == pytest.approx([0.6, 0.3, 0.5])
    assert frontier["y"][0] == pytest.approx(84)
    published, full, lora = charts["g1-1-0"]["data"]
    assert [lora["x"][0], lora["y"][0]] == pytest.approx([100 * 620 / 900, -2.0])
    assert min(published["x"]) == pytest.approx(31.25)
    assert charts["g1-2-0"]["data"][2]["x"] == [74_000, 295_000, 1_180_000]


def test_a_method_looks_the_same_in_every_chart_and_figure(write):
    def found(task, methods):
        return [record(name, 0, 0.8, peak=300 * MIB, task=task) for name in methods]

    everything = [
        *found("rte", ["full", "bitfit", "prompt"]),
        *found("reviews", ["prompt", "ia3", "bitfit", "full"]),
    ]
    seen = {}
    for chart in charts_of(write(everything)).values():
        for trace in chart["data"]:
            if trace["meta"].startswith("series"):
                seen.setdefault(trace["name"], set()).add(
                    (trace["meta"], trace["marker"]["symbol"])
                )
    assert seen.keys() == {"full", "bitfit", "prompt", "ia3"}
    assert all(len(found) == 1 for found in seen.values())
    assert len(set.union(*seen.values())) == 4
    rte, reviews = boards(everything)[-2:]
    shared = looks([rte, reviews])
    drawn = [
        line.get_color()
        for each in (rte, reviews)
        for line in score_figure(each, "trainable_parameters", shared).axes[0].lines
        if line.get_marker() == "o"
    ]
    own = [
        shared[curve.kind].colour
        for b in (rte, reviews)
        for curve in curves(b, "trainable_parameters")
    ]
    assert drawn == own
    assert len(set(drawn)) == 4


def test_measured_memory_can_be_chosen_where_there_is_any(write):
    found = [record("full", seed, 0.8, peak=300 * MIB, measured=320 * MIB) for seed in (0, 1)]
    path = write(found)
    assert charts_of(path)["g1-0-1"]["data"][1]["x"] == [320]
    assert '<option value="g1-0-1">measured</option>' in path.read_text()


def test_records_without_a_score_or_a_size_make_a_page(write):
    assert (
        "On rte, no method has a score."
        in write([record("full", 0, None, reason="no")]).read_text()
    )
    unsized = charts_of(write([record("full", 0, 0.7)]))
    assert list(unsized) == ["g1-0-0"]  # against parameters
    with pytest.raises(ValueError, match="no records"):
        write([])


def test_a_command_trains_the_group_again():
    found = [
        record("full", 0, 0.8, rate=1e-4),
        record("lora[r=4]", 0, 0.8, rate=2e-3),
        record("full", 1, 0.8, rate=1e-4),
        record("full", 0, 0.8, rate=5e-4),
        record("lst", 0, 0.8, rate=3e-3, steps=60),
    ]
    (group,) = task_groups(found)
    once, other_rate, shorter = map(shlex.split, train_commands(group))

    def option(words, name):
        return words[words.index(name) + 1]

    assert option(once, "--methods") == "full,lora[r=4]"
    assert parse(option(once, "--learning-rate")).named == {"full": 1e-4, "lora[r=4]": 2e-3}
    assert option(once, "--seeds") == "0,1"
    assert option(once, "--epochs") == "20"  # 500 steps of 25 an epoch
    assert "--max-steps" not in once
    assert option(other_rate, "--learning-rate") == "full=0.0005"
    assert (option(shorter, "--epochs"), option(shorter, "--max-steps")) == ("3", "60")


def test_report_and_show_take_folders_of_scores(tmp_path):
    for task in ("rte", "reviews"):
        store = TrainingStore(tmp_path / task)
        for each in records(tasks=(task,), count=3):
            store.append(each)
    folders = [str(tmp_path / "rte"), str(tmp_path / "reviews" / "training.jsonl")]
    out = tmp_path / "page.html"
    figures = tmp_path / "figures"
    result = CliRunner().invoke(
        app, ["report", *folders, "--out", str(out), "--figures", str(figures)]
    )
    assert result.exit_code == 0, result.output
    assert "On average, full scores best, 86.0" in out.read_text()
    assert (figures / "score_published-1-average-of-2-tasks.svg").exists()
    shown = CliRunner().invoke(app, ["show", *folders, "--markdown"]).stdout
    assert "**average of rte, reviews: made-up, on a processor**" in shown
    assert len(CliRunner().invoke(app, ["show", *folders, "--csv"]).stdout.splitlines()) == 19
    (tmp_path / "records.jsonl").touch()
    mixed = CliRunner().invoke(app, ["report", folders[0], str(tmp_path)])
    assert isinstance(mixed.exception, UsageError)
    assert "does not; name one kind" in str(mixed.exception)


# In a browser: skipped, visibly, where playwright or Chromium is missing.


def test_charts_are_drawn_with_labels_and_without_complaint_or_network(show):
    page = show(two_tasks())
    assert page.complaints == []
    assert page.locator(".chart .main-svg").count() >= 9
    labels = set(page.locator("#g1-0-0 .annotation-text").all_text_contents())
    assert {"full", "bitfit", "prompt", "lora r=64", "lst reduction=2"} <= labels
    assert "LST (T5-base)" in page.locator("#g1-1-0 .annotation-text").all_text_contents()
    assert page.locator("#g1-0-0 .errorbar").count() >= 12


def test_labels_cover_no_other_label(show):
    page = show(records(tasks=("rte",)))
    boxes = page.locator("#g1-0-0 .annotation-text").evaluate_all(
        "(all) => all.filter((e) => e.textContent).map((e) => e.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) > 8
    overlaps = [
        (one, other)
        for number, one in enumerate(boxes)
        for other in boxes[:number]
        if min(one["right"], other["right"]) - max(one["left"], other["left"]) > 1
        and min(one["bottom"], other["bottom"]) - max(one["top"], other["top"]) > 3
    ]
    assert overlaps == []


def test_a_click_on_a_header_sorts_by_score(show):
    page = show([*records(tasks=("rte",)), record("ia3", 0, None, reason="broke")])
    table = page.locator("#board-1 table.sortable").first
    table.get_by_role("button", name="test score").click()
    assert table.locator("tbody th").first.inner_text() == "prompt"
    assert table.locator("tbody th").last.inner_text() == "ia3"  # has none


def test_nothing_written_by_others_becomes_markup(show):
    found = [
        record("full", 0, 0.8, peak=300 * MIB, label=ATTACK, backbone=HOSTILE, task=HOSTILE),
        record("bitfit", 0, 0.7, peak=200 * MIB, label=HOSTILE, backbone=HOSTILE, task=HOSTILE),
        record("prompt", 0, None, reason=ATTACK, device=HOSTILE),
    ]
    page = show(found)
    assert page.complaints == []
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("script").count() == 3
    assert page.get_by_text(ATTACK).count() >= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_can_be_looked_at(show, tmp_path, scheme, width):
    """Set PETL_BENCH_SCREENSHOTS to a folder to keep what is seen."""
    found = records(tasks=("rte",))
    page = show(found, width=width, height=860, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    kept = Path(os.environ.get("PETL_BENCH_SCREENSHOTS", tmp_path))
    image = kept / f"scores-{scheme}-{width}.png"
    page.screenshot(path=image, full_page=True)
    assert image.stat().st_size > 20_000
