import pytest

from petl_bench.errors import UsageError
from petl_bench.suite import Suite, load_suite


def plan(methods="lora", **axes):
    return Suite(methods=[methods], **({"backbone": {"name": ["t5-small"]}} | axes)).plan()


def labels(cells):
    return [cell.label for cell in cells]


def test_the_baseline_is_added_and_comes_first():
    assert labels(plan("lst,lora")) == ["full", "lst", "lora"]


def test_a_baseline_that_was_asked_for_comes_first_and_once():
    assert labels(plan("lst,full,lora,full")) == ["full", "lst", "lora"]


def test_the_baseline_comes_first_within_each_backbone_and_workload():
    cells = plan("lora", workload={"batch_size": [1, 2]})
    assert labels(cells) == ["full", "lora"] * 2


def test_the_grid_runs_through_the_last_axis_first():
    cells = plan(
        "full",
        backbone={"name": ["t5-base", "t5-small"], "dtype": ["fp32", "bf16"]},
        workload={"batch_size": [2, 1]},
    )
    seen = [
        (cell.case.backbone.name, cell.case.backbone.dtype.value, cell.case.workload.batch_size)
        for cell in cells
    ]
    assert seen == [
        (name, dtype, batch)
        for name in ("t5-base", "t5-small")
        for dtype in ("fp32", "bf16")
        for batch in (2, 1)
    ]


def test_no_cell_is_there_twice_however_it_was_written():
    assert labels(plan("lora,lora[r=32|8],lora[r=8,alpha=32]")) == ["full", "lora", "lora[r=8]"]
    assert len(plan(workload={"batch_size": [8, 8]})) == 2
    ids = [cell.case.case_id for cell in plan("lora[r=1|2|1],lst,lst")]
    assert len(set(ids)) == len(ids) == 4


def test_what_is_not_said_has_its_default():
    case = plan()[0].case
    assert (case.backbone.dtype, case.backbone.attention) == ("fp32", "eager")
    assert case.workload.batch_size == 100


@pytest.mark.parametrize("axis", [{"backbone": {"name": []}}, {"workload": {"seed": []}}])
def test_an_axis_without_values_is_refused_by_name(axis):
    with pytest.raises(UsageError, match=r"(name|seed): no value given"):
        plan(**axis)


def test_a_suite_without_methods_is_refused():
    with pytest.raises(UsageError, match="none given"):
        Suite(methods=[]).plan()


@pytest.fixture
def suite_file(tmp_path):
    def write(text):
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_may_give_one_value_or_a_list(suite_file):
    path = suite_file(
        'methods = ["lora[r=8|32]", "lst"]\n'
        '[backbone]\nname = "t5-small"\ndtype = ["fp32", "bf16"]\n'
        "[workload]\nbatch_size = 8\nclip_grad_norm = 1\n"
    )
    cells = load_suite(path).plan()
    assert labels(cells) == ["full", "lora[r=8]", "lora[r=32]", "lst"] * 2
    assert {cell.case.workload.batch_size for cell in cells} == {8}


def test_a_file_may_leave_out_everything(suite_file):
    suite = load_suite(suite_file(""))
    assert not suite.methods
    assert not suite.backbone
    assert not suite.workload


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # keys
        ('method = ["lst"]', ["suite", "'method'", "did you mean methods"]),
        ("[workloads]\nbatch_size = 8", ["suite", "'workloads'", "did you mean workload"]),
        ("[backbone]\nnmae = 't5-small'", ["backbone", "'nmae'", "did you mean name"]),
        (
            "[backbone]\nbatch_size = 8",
            ["backbone", "'batch_size'", "attention, quantize"],
        ),
        ("[workload]\nbatchsize = 8", ["workload", "'batchsize'", "did you mean batch_size"]),
        ("[workload]\nlength = 8", ["workload", "'length'", "_length_tokens"]),
        ("[workload]\nzzz = 8", ["workload", "'zzz'", "there are: batch_size"]),
        # methods
        ('methods = "lst"', ["methods must be a list", '["lst"']),
        ("methods = [3]", ["methods must be a list of strings"]),
        ("methods = []", ["methods: no value given"]),
        ('methods = [""]', ["methods: none given"]),
        ('methods = ["lts"]', ["'lts'", "did you mean lst"]),
        ('methods = ["lora[rank=8]"]', ["lora", "'rank'", "r, alpha"]),
        ('methods = ["lora[r=big]"]', ["lora", "r:", "'big'"]),
        # tables
        ("backbone = 't5-small'", ["backbone must be a table"]),
        ("[[workload]]\nbatch_size = 8", ["workload must be a table"]),
        # values
        ("[workload]\nbatch_size = 'many'", ["[workload]", "batch_size:", "'many'"]),
        ("[workload]\nbatch_size = '8'", ["[workload]", "batch_size:", "'8'"]),
        ("[workload]\nbatch_size = true", ["[workload]", "batch_size:", "True"]),
        ("[workload]\nbatch_size = 0", ["[workload]", "batch_size:", "got 0"]),
        ("[workload]\nbatch_size = [8, 0]", ["[workload]", "batch_size:", "got 0"]),
        ("[workload]\nbatch_size = [[8]]", ["[workload]", "batch_size:", "[8]"]),
        ("[workload]\nbatch_size = []", ["[workload]", "batch_size: no value given"]),
        ("[workload]\nclip_grad_norm = inf", ["[workload]", "clip_grad_norm:", "inf"]),
        ("[workload]\noptimizer = 'lion'", ["[workload]", "optimizer:", "'lion'", "adamw", "sgd"]),
        ("[backbone]\nname = []", ["[backbone]", "name: no value given"]),
        ("[backbone]\nname = 't5-smal'", ["[backbone]", "'t5-smal'", "did you mean t5-small"]),
        ("[backbone]\ndtype = 'bf61'", ["[backbone]", "dtype:", "'bf61'", "fp32, bf16, fp16"]),
        ("[backbone]\ndtype = 16", ["[backbone]", "dtype:", "16", "fp32, bf16, fp16"]),
        ("[backbone]\ndtype = [['bf16']]", ["[backbone]", "dtype:", "fp32, bf16, fp16"]),
        ("[backbone]\nattention = 'flash'", ["[backbone]", "attention:", "eager, sdpa"]),
        # not TOML
        ("methods = [", ["not TOML"]),
        ("\nmethods = lst", ["not TOML", "line 2"]),
    ],
)
def test_a_slip_in_a_file_is_told_in_one_line_with_file_table_field_and_choices(
    suite_file, text, told
):
    path = suite_file(text)
    with pytest.raises(UsageError) as refused:
        load_suite(path)
    message = str(refused.value)
    assert "\n" not in message
    assert [part for part in (str(path), *told) if part not in message] == []


def test_a_file_that_cannot_be_read_is_told_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml: No such file"):
        load_suite(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="directory"):
        load_suite(tmp_path)
    (tmp_path / "latin.toml").write_bytes('methods = ["\xe9"]'.encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.toml is not TOML"):
        load_suite(tmp_path / "latin.toml")
