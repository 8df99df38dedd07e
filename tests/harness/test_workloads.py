import pytest

from petl_bench import workloads
from petl_bench.case import Workload
from petl_bench.errors import UsageError
from petl_bench.suite import Suite, load_suite
from petl_bench.tables import across_workloads, to_markdown
from petl_bench.units import GIB


def planned(**axes):
    return Suite(methods=("full",), workload=axes).workloads()


def lengths(workload):
    return (
        workload.batch_size,
        workload.source_length_tokens,
        workload.target_length_tokens,
        workload.images,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("glue", (100, 128, 3, 1)),
        ("vqa", (300, 20, 10, 1)),
        ("gqa", (500, 20, 10, 1)),
        ("nlvr2", (100, 40, 2, 2)),
        ("caption", (250, 4, 40, 1)),
    ],
)
def test_a_name_fills_in_fields(name, expected):
    (found,) = planned(name=[name])
    assert lengths(found) == expected


def test_the_paper_s_text_workload_is_the_default():
    assert planned(name=["glue"]) == [Workload()]


def test_given_fields_override_a_names():
    found = planned(name=["gqa", "vqa"], target_length_tokens=[9], batch_size=[1, 2])
    assert [lengths(w)[:3] for w in found] == [(1, 20, 9), (2, 20, 9)] * 2


def test_vl_is_the_four_tasks_that_one_run_trains_on():
    suite = Suite(methods=("full",), workload={"name": ["vl"]})
    assert suite.takes_the_largest
    assert suite.workloads() == planned(name=["vqa", "gqa", "nlvr2", "caption"])
    assert not Suite(methods=("full",), workload={"name": ["gqa"]}).takes_the_largest


def test_a_suite_file_may_name_workloads(tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text('methods = ["full"]\n[workload]\nname = ["gqa", "nlvr2"]\nseed = 3\n')
    found = load_suite(path).workloads()
    assert [(w.images, w.seed) for w in found] == [(1, 3), (2, 3)]


@pytest.mark.parametrize("name", ["gq", "", 3])
def test_an_unknown_name_is_told_with_those_there_are(name):
    with pytest.raises(UsageError, match=f"no workload '{name}'; (did you mean|there are)"):
        planned(name=[name])


def test_every_name_makes_workloads():
    for name in workloads.NAMED:
        assert planned(name=[name])


def test_a_run_over_several_needs_what_its_largest_needs(made_up_record):
    large, small = Workload(batch_size=500), Workload(batch_size=300)
    records = [
        made_up_record("full", workload=small, peak_bytes=12 * GIB),
        made_up_record("full", workload=large, peak_bytes=20 * GIB),
        made_up_record("lora", workload=small, peak_bytes=9 * GIB),
        made_up_record("lora", workload=large, peak_bytes=8 * GIB),
    ]
    (table,) = across_workloads(records)
    rows = {row[0].text: (row[1].number, row[2].text) for row in table.rows}
    assert rows["full"][0] == 20 * GIB
    assert "batch 500" in rows["full"][1]
    assert rows["lora"][0] == 9 * GIB
    assert "batch 300" in rows["lora"][1]
    assert "the largest of 2 workloads" in to_markdown(table)
