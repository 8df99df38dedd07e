"""The page of `explain --html`: its chart sums, names, escapes and works in a browser."""

import json
import re

import plotly.graph_objects as go
import pytest

from petl_bench.case import Backbone, Case, MethodChoice, Workload
from petl_bench.explanation import Band, Explanation, LiveTensor, Moment, StepTimeline
from petl_bench.record import Category, Phase
from petl_bench.report.explanation import write_explanation
from petl_bench.report.step_chart import step_chart
from petl_bench.units import GIB

HOSTILE = "</script><script>alert('x')</script>"


def _tensor(size, category, module, **more):
    return LiveTensor(
        allocated_bytes=size,
        category=category,
        module=module,
        operator="aten::mm",
        source="pkg/model.py:7",
        **more,
    )


def _made_up(module="encoder.block.0.k"):
    """6 GiB at the peak: 1 of weights in a band, 3 of a map in a band, 2 of other activations."""
    weight = _tensor(GIB, Category.PARAMETER, "head", name="head.weight")
    attention = _tensor(3 * GIB, Category.ACTIVATION, module)
    other = _tensor(2 * GIB, Category.ACTIVATION, "decoder")
    timeline = StepTimeline(
        label="lora",
        moments=(
            Moment(event=0, phase=Phase.FORWARD, rest={}),
            Moment(event=10, phase=Phase.FORWARD, rest={Category.ACTIVATION: 2 * GIB}),
            Moment(event=20, phase=Phase.BACKWARD, rest={Category.ACTIVATION: GIB}),
            Moment(event=30, phase=Phase.OPTIMIZER_STEP, rest={}),
        ),
        bands=(
            Band(tensor=attention, born=5, died=15),
            Band(tensor=weight, born=-1, died=None),
        ),
        tensors=12,
    )
    explanation = Explanation(
        case=Case(
            backbone=Backbone(name="tiny", family="t5", config={}),
            method=MethodChoice(name="lora"),
            workload=Workload(),
        ),
        label="lora",
        device="t4",
        phase=Phase.FORWARD,
        peak_allocated_bytes=6 * GIB,
        by_category={Category.ACTIVATION: 5 * GIB, Category.PARAMETER: GIB},
        by_module={module: 3 * GIB, "decoder": 2 * GIB, "head": GIB},
        by_operator={"aten::mm": 6 * GIB},
        by_source={"pkg/model.py:7": 6 * GIB},
        tensors=(attention, other, weight),
    )
    return explanation, timeline


@pytest.fixture
def write(tmp_path):
    def write(*explained):
        path = tmp_path / "explain.html"
        write_explanation(explained, path, headline="h", setting="s", command="petl-bench explain")
        return path

    return write


def test_bands_and_rest_stack_up_to_what_is_allocated():
    explanation, timeline = _made_up()
    chart = step_chart(timeline, explanation)
    totals = [sum(sizes) for sizes in zip(*(t["y"] for t in chart["data"]), strict=True)]
    assert totals == [1, 6, 2, 1]
    assert any("peak 6.00 GiB" in note["text"] for note in chart["layout"]["annotations"])
    go.Figure(chart)


def test_a_band_tells_name_operator_module_line_bytes_and_time():
    chart = step_chart(*reversed(_made_up()))
    (text,) = [t["text"] for t in chart["data"] if "encoder.block.0.k" in t["text"]]
    for told in ("activation, 3.00 GiB", "aten::mm", "pkg/model.py:7", "from forward (event 5)"):
        assert told in text
    (text,) = [t["text"] for t in chart["data"] if "head.weight" in t["text"]]
    assert "all the step" in text


def test_nothing_of_a_model_becomes_markup(write):
    text = write(_made_up(HOSTILE)).read_text()
    assert "<script>alert" not in text
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text, re.DOTALL)[1])
    assert "<script" not in json.dumps(charts)


def test_hovering_over_a_band_names_its_tensor_and_nothing_is_fetched(open_page, write):
    page = open_page(write(_made_up(), _made_up()))
    page.locator("#step-1").scroll_into_view_if_needed()
    area = page.locator("#step-1 .nsewdrag").bounding_box()
    # At event 10 of 30, at 5 of 7.08 GiB: in the band between 3 and 6.
    x, y = area["x"] + area["width"] * 12 / 30, area["y"] + area["height"] * (1 - 5 / 7.08)
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    hover = page.locator("#step-1 .hoverlayer")
    hover.get_by_text("encoder.block.0.k").first.wait_for()
    assert "pkg/model.py:7" in hover.text_content()
    assert page.complaints == []


def test_the_table_of_tensors_unfolds_and_needs_no_sideways_scrolling(open_page, write):
    module = ".".join(["encoder", "block", "0", "layer", "0"] + 9 * ["q_with_a_long_name"])
    page = open_page(write(_made_up(module)))
    page.get_by_text("The tensors that take most over the step").click()
    table = page.get_by_role("region", name="The tensors that take most over the step: lora")
    assert "from forward (event 5)" in table.text_content()
    assert "pkg/model.py:7" in table.text_content()
    assert table.evaluate("(it) => it.scrollWidth <= it.clientWidth")


def test_the_page_fits_a_phone_and_the_dark(open_page, write):
    page = open_page(write(_made_up()), width=360, height=740, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.complaints == []


def test_a_headlines_numbers_keep_their_units(write):
    explanation, timeline = _made_up()
    page = write((explanation, timeline), (explanation, timeline)).read_text()
    assert "peaks at 6.00 GiB in forward" in explanation.headline
    assert explanation.headline.replace(" GiB", "\N{NO-BREAK SPACE}GiB") in page
