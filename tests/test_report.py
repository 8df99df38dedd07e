"""The report: what the file says, that it needs nothing else, and that it works in a browser."""

import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import plotly.graph_objects as go
import pytest

from petl_bench import backbones, cli, method_spec
from petl_bench.case import Case, DType, Workload
from petl_bench.record import Origin, Status
from petl_bench.report import write_report
from petl_bench.report.reproduction import explain_command, run_command
from petl_bench.units import GIB

COMMAND = "petl-bench run --methods full,lst"
HOSTILE = "</script><script>alert('x')</script>"


class _Page(HTMLParser):
    """The page's tags with their attributes, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.visible = [], [], []
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, _tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.visible.append(data)

    @property
    def charts(self):
        return json.loads(self.scripts[0])

    @property
    def text(self):
        return " ".join(" ".join(self.visible).split())


@pytest.fixture
def write(tmp_path):
    def write(records, command=COMMAND):
        path = tmp_path / "report.html"
        write_report(records, path, command=command)
        return path

    return write


@pytest.fixture
def read(write):
    return lambda records, command=COMMAND: _Page(write(records, command).read_text())


def _mixed(made_up_records, made_up_record):
    return [
        *made_up_records(6),
        *made_up_records(2, origin=Origin.MEASURED),
        made_up_record("x", status=Status.OOM, reason="no room", requested_bytes=2 * GIB),
        made_up_record("y", attributed=False, events=0, samples_per_s=None, backbone="bert-base"),
        made_up_record("z", status=Status.ERROR, reason="it broke", backbone="roberta-base"),
    ]


def test_the_headline_is_the_largest_saving(read, made_up_records):
    page = read(made_up_records())
    assert "lst saves most: 5.50\N{NO-BREAK SPACE}GiB at peak" in " ".join(page.visible)


def test_the_page_gives_command_environment_reasons_and_how_the_numbers_were_got(
    read, made_up_records, made_up_record
):
    text = read(_mixed(made_up_records, made_up_record)).text
    assert COMMAND in text
    assert "torch 2.13.0" in text
    assert "oom: no room (requested 2.00 GiB)" in text
    assert "error: it broke" in text
    assert "Simulated: the training step ran on tensors without data" in text
    assert "Measured: each case ran in a process of its own" in text
    assert "Roofline estimate: " in text
    assert "No case of 1 finished." in text


def test_a_case_that_is_too_large_is_told_with_its_numbers_and_how_that_is_known(
    read, made_up_record, refused
):
    page = read([made_up_record("full", fit=refused())])
    assert "too large: no room in backward for 2.00 GiB (gradient, aten::mm)" in page.text
    assert "full does not fit into the 10.00 GiB that a100-80gb has for tensors." in page.text
    assert "less an estimate of the CUDA context, 10.00 GiB of a100-80gb." in page.text
    assert "Cases without numbers" not in page.text
    assert ("td", {"class": "status oom"}) in page.tags
    assert "Whether a case fits" not in read([made_up_record()]).text


def test_only_the_origins_present_are_explained(read, made_up_record):
    text = read([made_up_record(origin=Origin.MEASURED)]).text
    assert "Measured: " in text
    assert "Simulated: " not in text
    assert "Roofline estimate: " not in text


def test_nothing_written_by_others_becomes_markup(read, made_up_record):
    records = [
        made_up_record("full", label=HOSTILE, backbone=HOSTILE, device=HOSTILE),
        made_up_record("x", label=HOSTILE, status=Status.ERROR, reason=HOSTILE),
    ]
    plain = read([made_up_record(), made_up_record(status=Status.ERROR, reason="it broke")])
    hostile = read(records, command=HOSTILE)
    assert len(hostile.scripts) == len(plain.scripts) == 3
    assert hostile.text.count("alert('x')") >= 4
    # plotly makes elements of tags in its text, so there they must be entities.
    assert "<script" not in json.dumps(hostile.charts)


def test_the_page_refers_to_no_resource_outside_itself(write, made_up_records):
    text = write(made_up_records()).read_text()
    page = _Page(text)
    references = [
        value for _, found in page.tags for value in (found.get("src"), found.get("href"))
    ]
    assert [value for value in references if value and not value.startswith("#")] == []
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "img", "object", "base")]
    assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", text)
    policy = next(
        found["content"]
        for _, found in page.tags
        if "content" in found and "none" in found["content"]
    )
    assert policy.startswith("default-src 'none'")
    own = text.replace(page.scripts[1], "")  # all but plotly.js, which is inlined once
    assert not re.search(r"https?://", own)


def test_every_chart_is_a_figure_that_plotly_accepts(read, made_up_records, made_up_record):
    charts = read(_mixed(made_up_records, made_up_record)).charts
    # A group's peaks are of the whole step and of four phases; two groups have no timelines, and
    # one finished nothing.
    assert len(charts) == (5 + 2 + 6) + (5 + 2 + 2) + (5 + 1) + 1
    for chart in charts.values():
        go.Figure(chart)


def test_the_bars_of_the_report_sum_to_the_peaks(read, made_up_records):
    chart = read(made_up_records(2)).charts["g1-0-0"]
    totals = [sum(sizes) for sizes in zip(*(trace["x"] for trace in chart["data"]), strict=True)]
    assert totals == pytest.approx([17.6, 12.6])
    assert chart["layout"]["yaxis"]["ticktext"] == ["full", "lora[r=8]"]


def test_the_same_records_and_command_give_the_same_bytes(write, made_up_records):
    first = write(made_up_records()).read_bytes()
    assert write(made_up_records()).read_bytes() == first


def test_the_file_is_replaced_whole_and_nothing_is_left_beside_it(write, made_up_record):
    path = write([made_up_record("first")])
    assert write([made_up_record("second")]) == path
    assert "second" in _Page(path.read_text()).text
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_report_that_cannot_be_finished_leaves_the_old_one(write, made_up_record, monkeypatch):
    path = write([made_up_record("first")])
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write([made_up_record("second")])
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_report_of_no_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no records"):
        write_report([], tmp_path / "report.html", command=COMMAND)


# In a browser: skipped, visibly, where playwright or Chromium is missing.


@pytest.fixture
def show(open_page, write):
    """Opens a report of records."""
    return lambda records, **options: open_page(write(records), **options)


def test_charts_are_drawn_without_complaint_or_network(show, made_up_records, made_up_record):
    page = show(_mixed(made_up_records, made_up_record))
    assert page.complaints == []
    assert page.locator(".chart").count() == 4 + 4 + 2 + 1
    assert page.locator(".chart .main-svg").count() >= 10
    assert page.locator("#g1-0-0 .bars path").count() > 6
    assert set(page.locator("#g1-1-0 .annotation-text").all_text_contents()) >= {"lst", "full"}


def test_a_click_on_a_header_sorts_by_number_with_absent_ones_last(
    show, made_up_records, made_up_record
):
    failed = made_up_record("x", status=Status.SKIPPED, reason="not supported")
    page = show([failed, *made_up_records(4)])
    table = page.locator("table.sortable").first
    methods = table.locator("tbody th")
    assert methods.all_inner_texts() == ["x", "full", "lora[r=8]", "adapters", "bitfit"]
    header = table.get_by_role("button", name="trainable")
    header.click()
    assert methods.all_inner_texts() == ["bitfit", "lora[r=8]", "adapters", "full", "x"]
    header.press("Enter")  # the keyboard sorts too
    assert methods.all_inner_texts() == ["full", "adapters", "lora[r=8]", "bitfit", "x"]
    sorted_header = table.locator("th[aria-sort]")
    assert sorted_header.get_attribute("aria-sort") == "descending"
    assert "trainable" in sorted_header.inner_text()


def test_hovering_over_a_bar_gives_the_bytes_of_each_category(show, made_up_records):
    page = show(made_up_records(3))
    page.locator("#g1-0-0").scroll_into_view_if_needed()
    page.locator("#g1-0-0 .bars .point path").first.hover(force=True)
    hover = page.locator("#g1-0-0 .hoverlayer")
    hover.get_by_text("activation").wait_for()
    assert "full" in hover.text_content()
    assert "762.94 MiB" in hover.text_content()


def test_the_selector_draws_another_methods_timeline(show, made_up_records):
    page = show(made_up_records(3))
    page.get_by_label("method").select_option(label="lora[r=8]")
    page.wait_for_function("document.getElementById('g1-3-0').dataset.drawn === 'g1-3-1'")
    assert page.locator("#g1-3-0 .scatterlayer .trace").count() >= 6


def test_charts_follow_a_change_to_the_dark_theme(show, made_up_records):
    page = show(made_up_records(2), color_scheme="light")
    tick = page.locator("#g1-0-0 .xtick text").first
    light = tick.evaluate("(text) => getComputedStyle(text).fill")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "(light) => getComputedStyle(document.querySelector('#g1-0-0 .xtick text')).fill !== light",
        arg=light,
    )
    assert page.complaints == []


def test_a_category_has_the_colour_of_the_theme_in_charts_and_legend(show, made_up_records):
    page = show(made_up_records(2), color_scheme="dark")
    for chart, trace in (("g1-0-0", ".bars path"), ("g1-3-0", ".scatterlayer .js-fill")):
        fills = page.locator(f"#{chart} {trace}").evaluate_all(
            "(found) => found.map((each) => getComputedStyle(each).fill)"
        )
        legend = page.locator(f"figure:has(#{chart}) .swatch").evaluate_all(
            "(found) => found.map((each) => getComputedStyle(each).backgroundColor)"
        )
        assert "rgb(254, 132, 56)" in legend  # CATEGORIES_DARK of activation
        assert len(set(fills)) > 5
        assert set(fills) <= set(legend)


def test_a_phone_scrolls_tables_in_their_box_and_never_the_page(
    show, made_up_records, made_up_record
):
    records = _mixed(made_up_records, made_up_record)
    page = show(records, width=390, height=844, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    scroll, client = page.locator(".scroll").first.evaluate("(b) => [b.scrollWidth, b.clientWidth]")
    assert scroll > client


def test_hostile_labels_run_no_script_in_the_browser(show, made_up_record):
    attack = "<img src=x onerror=alert(1)>"
    page = show([made_up_record("full", label=attack), made_up_record("x", label=HOSTILE)])
    assert page.complaints == []
    assert page.locator("img[src=x]").count() == 0


def test_the_selector_draws_the_peak_of_a_phase(show, made_up_records):
    page = show(made_up_records(3))
    page.locator("select[data-draws=g1-0-0]").select_option(label="optimizer step")
    page.wait_for_function("document.getElementById('g1-0-0').dataset.drawn === 'g1-0-4'")
    notes = page.locator("#g1-0-0 .annotation-text").all_text_contents()
    assert sorted(notes) == ["6.30 GiB", "6.50 GiB", "8.80 GiB"]  # half of each peak


def test_a_filter_leaves_the_rows_that_hold_every_word(show, made_up_records):
    page = show(made_up_records(8))
    table = page.locator("table.sortable").first
    field = page.get_by_label("Filter").first
    field.fill("lora OK")
    shown = table.locator("tbody tr:visible th")
    assert shown.all_inner_texts() == ["lora[r=8]", "lora[r=64]"]
    assert page.locator(".filter output").first.inner_text() == "2 of 8 rows"
    table.get_by_role("button", name="trainable").click()
    assert shown.all_inner_texts() == ["lora[r=8]", "lora[r=64]"]
    field.fill("")
    assert shown.count() == 8


def test_runs_are_set_side_by_side(show, made_up_records, made_up_record):
    half = [
        made_up_record("lst", peak_bytes=int(2.75 * GIB), workload=Workload(batch_size=50)),
        made_up_record("x", workload=Workload(batch_size=50)),
    ]
    page = show([*made_up_records(5), *half])
    rows = page.locator("#runs tbody tr").all_inner_texts()
    assert "batch 100" in page.locator("#runs thead").inner_text()
    assert [row.split() for row in rows if row.startswith("lst")] == [
        ["lst", "5.50", "GiB", "2.75", "GiB", "(-50.0", "%)"]
    ]
    assert [row.split() for row in rows if row.startswith("x")] == [["x", "-", "10.00", "GiB"]]
    assert page.locator("#runs .bars path").count() == 2 * 6
    assert page.complaints == []


def test_many_runs_are_rows_and_each_is_drawn_when_it_is_opened(show, made_up_record):
    page = show(
        [
            made_up_record(label, peak_bytes=size * GIB, workload=Workload(batch_size=batch))
            for batch in (1, 2, 3, 4, 5)
            for label, size in (("full", 8), ("lst", batch))
        ]
    )
    rows = page.locator("#runs tbody tr").all_inner_texts()
    assert rows[1].split("\t")[:4] == ["batch 2", "lst", "2.00 GiB", "75.0 %"]
    assert len(rows) == 5
    assert page.locator(".main-svg:visible").count() == 0
    page.get_by_role("link", name="batch 2").click()
    page.locator("#group-2 .bars path").first.wait_for()
    assert page.locator(".group[open] > summary h2").all_inner_texts() == ["batch 2"]
    assert page.complaints == []


def _luminance(colour):
    """Relative luminance (WCAG 2.2) of a CSS colour such as #1b2430."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_stands_out_from_page_and_card(theme):
    css = files("petl_bench.report").joinpath("report.css").read_text()
    block = css.split(":root {")[1 + theme].split("}")[0]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for text in ("ink", "faded", "accent", "good", "bad", "wait"):
        for ground in ("page", "card"):
            pair = sorted(_luminance(colours[name]) for name in (text, ground))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (text, ground)


def test_all_that_can_be_used_has_a_name_and_is_reached_by_the_keyboard(show, made_up_records):
    page = show(made_up_records(6))
    nameless = """() => [...document.querySelectorAll("button, select, input, [tabindex]")].filter(
      (each) => !(each.labels?.length || each.ariaLabel || each.textContent.trim()))"""
    assert page.evaluate(f"({nameless})().length") == 0
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"BUTTON", "INPUT", "SELECT"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_can_be_looked_at(show, made_up_records, tmp_path, scheme, width):
    """Set PETL_BENCH_SCREENSHOTS to a folder to keep what is seen."""
    page = show(made_up_records(6), width=width, height=860, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    kept = Path(os.environ.get("PETL_BENCH_SCREENSHOTS", tmp_path))
    image = kept / f"report-{scheme}-{width}.png"
    page.screenshot(path=image)
    assert image.stat().st_size > 20_000  # a blank page has a few thousand
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 22, 28)"}[scheme]


# --- commands that ask again ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "load",
    [
        {},
        {"batch_size": 7, "optimizer": "sgd", "source_length_tokens": 9},
        {"seed": 3, "clip_grad_norm": 0.5},
        {"clip_grad_norm": None, "checkpointing": True, "autocast": "bf16", "warmup_steps": 2},
        {"mode": "inference", "optimizer": None, "clip_grad_norm": None},
    ],
)
def test_a_cases_command_asks_the_same_question(made_up_record, load, tmp_path, monkeypatch):
    workload = Workload.model_validate(load)
    backbone = backbones.find("t5-base", dtype=DType.BF16)
    ((label, choice),) = method_spec.parse_specs("lora[r=4]")
    case = Case(backbone=backbone, method=choice, workload=workload)
    record = made_up_record("lora", label=label).model_copy(update={"case": case})
    monkeypatch.chdir(tmp_path)
    *before, command = run_command(record).split(" && ")
    for shell in before:
        subprocess.run(["bash", "-euc", shell], check=True)
    asked = []
    monkeypatch.setattr("petl_bench.cli.run.run_plan", lambda _, plan, __: asked.extend(plan) or [])
    monkeypatch.setattr("petl_bench.cli.run._write_outputs", lambda *_: None)
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert case.case_id in [planned.case.case_id for planned in asked]


def test_a_command_says_where_it_ran(made_up_record):
    measured = run_command(made_up_record("lst", origin=Origin.MEASURED))
    assert "--profiler cuda" in measured
    assert "--gpu" not in measured
    assert "--profiler simulated --gpu t4" in run_command(made_up_record("lst", device="t4"))
    assert "--html" in explain_command(made_up_record("lst"))
