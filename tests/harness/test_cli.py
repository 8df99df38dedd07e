"""What a person types, and what comes of it."""

import gc
import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version

import pytest
import torch

import petl_bench
from petl_bench import backbones, cards, registry
from petl_bench.case import Attention, DType, Optimizer
from petl_bench.cli import main
from petl_bench.eras import ERAS
from petl_bench.record import Record, Status, load_record
from petl_bench.runner import Runner
from petl_bench.store import FILE_NAME, Store

RUN = ("run", "--profiler", "simulated")
GRID = ("--batch-size", "2", "--methods", "lora[r=1|2],lst")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, so that what they leave behind is seen."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def finished_run(tiny, tmp_path_factory, warm):
    """The folder of a run, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    out, err = io.StringIO(), io.StringIO()
    words = ["petl-bench", *RUN, "--backbone", str(tiny), *GRID, "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patch, warm(), redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as left:
            main()
    assert left.value.code == 0, err.getvalue()
    return folder, out.getvalue(), err.getvalue()


def run_with_records(monkeypatch, records):
    """Make `petl-bench run` answer with `records` without running anything."""
    monkeypatch.setattr(Runner, "run", lambda *_: iter(records))


def write_no_outputs(monkeypatch):
    """Spare a run the seconds that its figures take."""
    monkeypatch.setattr("petl_bench.cli.run._write_outputs", lambda *_: None)


# --------------------------------------------------------------------------------------------
# Requests that cannot be carried out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("run --methods lorra", ["'lorra'", "did you mean lora"]),
        ("run --methods zzz", ["'zzz'", *registry.names()]),
        ("run --methods ,", ["methods", "none given"]),
        ("run --methods lora[rank=8]", ["lora", "'rank'", "r, alpha"]),
        ("run --methods lora[r=big]", ["lora", "r:", "'big'"]),
        ("run --methods lora[r=8", ["'lora[r=8'", "NAME[field=value"]),
        ("run --backbone t5-smal", ["'t5-smal'", "did you mean t5-small"]),
        ("run --backbone zzz", ["'zzz'", "petl-bench backbones"]),
        ("run --backbone .", ["config.json"]),
        ("run --batch-size 0", ["batch_size", "0"]),
        ("run --batch-size -3", ["batch_size", "-3"]),
        ("run --batch-size 99999999999999999999", ["batch_size", "less than 2147483648"]),
        ("run --source-length -1", ["source_length_tokens", "-1"]),
        ("run --target-length -1", ["target_length_tokens", "-1"]),
        ("run --dtype int7", ["dtype", "'int7'", *DType]),
        ("run --attention flash", ["attention", "'flash'", *Attention]),
        ("run --optimizer lion", ["optimizer", "'lion'", *Optimizer]),
        ("run --profiler gpu", ["profiler", "'gpu'", "auto, cuda, simulated"]),
        ("run --gpu nothing", ["gpu", "'nothing'", *cards.CARDS]),
        ("run --gpu a100-80", ["gpu", "'a100-80'", "did you mean a100-80gb"]),
        ("run --emulate torch-0.4", ["emulate", "'torch-0.4'", *ERAS]),
        ("run --suite absent.toml", ["absent.toml", "No such file"]),
        ("run --suite .", ["directory"]),
        ("run --suite ../bad.toml", ["bad.toml", "not TOML", "line 1"]),
        ("run --suite ../slip.toml", ["slip.toml", "workload", "'batchsize'", "batch_size"]),
        ("run --suite ../wrong.toml", ["wrong.toml", "[workload]", "batch_size", "'many'"]),
        ("run --methods full --out ../file", ["out", "file", "File exists"]),
        ("run --methods full --out ../file/deeper", ["out", "file", "Not a directory"]),
        ("show absent", ["records", "absent", "No such file"]),
        ("show .", ["records", FILE_NAME, "No such file"]),
        ("show ../empty", ["records", "empty", "none"]),
        ("show ../corrupt", ["records", "corrupt line 1"]),
        ("show ../binary", ["records", "binary line 1", "UTF-8"]),
        ("show ../empty --markdown --csv", ["--markdown, --latex and --csv"]),
        ("report absent", ["records", "absent", "No such file"]),
        ("report ../empty", ["records", "empty", "none"]),
        ("report ../run --out ../file/page.html", ["out", "file", "File exists"]),
        ("methods nothing", ["'nothing'"]),
        ("methods lorra", ["'lorra'", "did you mean lora"]),
    ],
)
def test_a_bad_request_wordsis_told_in_one_line_and_leaves_nothing_behind(
    command, tmp_path, made_up_record, arguments, told
):
    Store(tmp_path / "run").append(made_up_record())
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").write_text("")
    (tmp_path / "corrupt").write_text("{}\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n")
    (tmp_path / "bad.toml").write_text("methods = lst\n")
    (tmp_path / "slip.toml").write_text("[workload]\nbatchsize = 8\n")
    (tmp_path / "wrong.toml").write_text("[workload]\nbatch_size = 'many'\n")
    before = sorted(tmp_path.rglob("*"))

    done = command(*arguments.split())
    assert done.code == 2
    assert done.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.err)
    assert "Traceback" not in done.err
    assert [part for part in told if part not in done.err] == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_measuring_without_a_device_is_told_in_one_line_with_what_to_do(command, tmp_path):
    done = command("run", "--profiler", "cuda")
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"error: profiler: cuda needs a CUDA device .*simulated\n", done.err)
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("option", ["--gpu=h100", f"--emulate={ERAS[0]}"])
def test_what_is_for_simulations_is_refused_where_it_is_measured(command, monkeypatch, option):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    done = command("run", option)
    assert done.code == 2
    assert "add --profiler simulated" in done.err


@pytest.mark.parametrize("arguments", [["run", "--nonsense"], ["dance"], ["show"], ["run", "-m"]])
def test_words_that_the_command_line_does_not_have_are_refused(command, arguments):
    done = command(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


# --------------------------------------------------------------------------------------------
# Exit codes of runs


def test_a_case_that_ended_in_an_error_makes_the_exit_code_1_and_everything_is_still_written(
    command, monkeypatch, made_up_record, tmp_path
):
    error = made_up_record(status=Status.ERROR, reason="RuntimeError: the target was not found")
    run_with_records(monkeypatch, [error])
    done = command(*RUN, "--out", tmp_path / "out")
    assert done.code == 1
    assert "the target was not found" in done.out
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "table.md",
        "table.csv",
        "report.html",
    }


def test_running_out_of_memory_and_being_skipped_are_results_with_exit_code_0(
    command, monkeypatch, made_up_record, tmp_path
):
    records = [
        made_up_record("full", status=Status.OOM, reason="too big", requested_bytes=2**30),
        made_up_record("lst", status=Status.SKIPPED, reason="no ladder here"),
    ]
    run_with_records(monkeypatch, records)
    done = command(*RUN, "--out", tmp_path / "out")
    assert done.code == 0
    assert "oom" in done.out
    assert "skipped" in done.out
    assert done.err.splitlines()[-1] == "skipped: lst on t5-base: no ladder here"


@pytest.mark.parametrize(
    "request_words",
    [
        ["run", "--profiler", "simulated", "--methods", "lora[targets=up|down]"],
        ["fit", "--methods", "lora[targets=up|down]"],
        ["explain", "lora[targets=up]"],
    ],
)
def test_a_request_wordsin_which_no_method_fits_is_refused_before_anything_runs(
    command, tmp_path, request_words
):
    done = command(*request_words)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(
        r"error: [^\n]*lora\[targets=up\][^\n]*no projection 'up'[^\n]*\n", done.err
    )
    assert list((tmp_path / "here").iterdir()) == []


def test_the_baseline_is_no_method_that_was_asked_for_unless_it_is_named(
    command, monkeypatch, made_up_record, tmp_path
):
    run_with_records(monkeypatch, [made_up_record()])
    methods = "lora[targets=up]"
    assert command(*RUN, "--methods", methods, "--out", tmp_path / "out").code == 2
    assert command(*RUN, "--methods", f"full,{methods}", "--out", tmp_path / "out").code == 0


def test_misfits_that_show_only_when_a_model_is_built_are_refused_too(
    command, monkeypatch, made_up_record, tmp_path
):
    def answer(planned):
        end = {"status": Status.SKIPPED, "reason": "no layers"} if planned.label != "full" else {}
        known = {"case": planned.case, "case_id": planned.case.case_id}
        return made_up_record(label=planned.label, **end).model_copy(update=known)

    monkeypatch.setattr(Runner, "run", lambda _self, plan, *_: map(answer, plan))
    done = command(*RUN, "--methods", "lora,lst", "--batch-size", 2, "--out", tmp_path / "out")
    assert done.code == 2
    assert done.err.splitlines()[-3:] == [
        "skipped: lora on t5-base: no layers",
        "skipped: lst on t5-base: no layers",
        "error: methods: none fits",
    ]
    assert (tmp_path / "out" / "report.html").exists()


def test_a_run_that_is_interrupted_has_exit_code_130_and_says_how_it_goes_on(
    command, monkeypatch, tmp_path
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "run", interrupted)
    done = command(*RUN, "--out", tmp_path / "out")
    assert done.code == 130
    assert done.err.strip() == "stopped; the same command goes on where it left off"


def test_a_defect_of_ours_is_told_in_one_line_with_how_to_see_more(command, monkeypatch, tmp_path):
    def broken(*_):
        raise RuntimeError("several\nlines")

    monkeypatch.delenv("PETL_BENCH_DEBUG", raising=False)
    monkeypatch.setattr(Runner, "run", broken)
    done = command(*RUN, "--out", tmp_path / "out")
    assert done.code == 1
    assert done.err.startswith("defect: RuntimeError: several lines (PETL_BENCH_DEBUG=1 ")
    assert done.err.count("\n") == 1
    monkeypatch.setenv("PETL_BENCH_DEBUG", "1")
    with pytest.raises(RuntimeError, match="several"):
        command(*RUN, "--out", tmp_path / "out")


def test_a_disk_that_is_full_is_no_defect(command, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.delenv("PETL_BENCH_DEBUG", raising=False)
    monkeypatch.setattr(Runner, "run", full)
    done = command(*RUN, "--out", tmp_path / "out")
    assert (done.code, done.err) == (2, "error: [Errno 28] No space left on device\n")


def test_an_output_that_cannot_be_written_is_told_by_its_path(
    command, monkeypatch, made_up_record, tmp_path
):
    run_with_records(monkeypatch, [made_up_record()])
    (tmp_path / "out" / "table.md").mkdir(parents=True)
    done = command(*RUN, "--out", tmp_path / "out")
    assert done.code == 2
    assert re.search(r"^error: out: cannot write .*table\.md: Is a directory\n$", done.err)


def test_a_run_without_out_makes_a_folder_that_the_same_request_wordsfinds_again(
    command, monkeypatch, made_up_record, tmp_path
):
    write_no_outputs(monkeypatch)
    run_with_records(monkeypatch, [made_up_record()])
    requests = [[], [], ["--batch-size", 8], ["--gpu", "h100"], ["--emulate", ERAS[0]]]
    for request in requests:
        assert command(*RUN, "--methods", "lora", *request, "--json").code == 0
    folders = sorted(path.name for path in (tmp_path / "here" / "runs").iterdir())
    assert len(folders) == len(requests) - 1
    assert all(re.fullmatch(r"t5-base-[a-z0-9.-]+-[0-9a-f]{8}", name) for name in folders)


def test_a_suite_file_makes_the_grid_and_options_override_it(
    command, monkeypatch, made_up_record, tmp_path
):
    write_no_outputs(monkeypatch)
    asked = []

    def note(self, plan, *_):
        del self
        asked.extend(plan)
        return iter([made_up_record()])

    monkeypatch.setattr(Runner, "run", note)
    suite = tmp_path / "grid.toml"
    suite.write_text(
        'methods = ["lst"]\n[backbone]\nname = "t5-small"\n'
        "[workload]\nbatch_size = [1, 2]\nseed = 3\n"
    )
    options = ["--suite", suite, "--batch-size", 8, "--dtype", "bf16", "--out", tmp_path / "out"]
    assert command(*RUN, *options, "--json").code == 0
    assert [planned.label for planned in asked] == ["full", "lst"]
    case = asked[0].case
    assert (case.backbone.name, case.backbone.dtype) == ("t5-small", "bf16")
    assert (case.workload.batch_size, case.workload.seed) == (8, 3)


# --------------------------------------------------------------------------------------------
# A run, and what is done with it


def test_a_run_writes_records_tables_figures_and_a_report(finished_run):
    folder, printed, said = finished_run
    assert {path.name for path in folder.iterdir()} == {
        FILE_NAME,
        "table.md",
        "table.csv",
        "report.html",
        "figures",
    }
    assert list((folder / "figures").glob("*.svg"))
    assert all(path.stat().st_size > 0 for path in folder.rglob("*"))
    for label in ("full", "lora[r=1]", "lora[r=2]", "lst"):
        assert label in printed
        assert label in (folder / "table.md").read_text(encoding="utf-8")
        assert label in (folder / "table.csv").read_text(encoding="utf-8")
        assert label in (folder / "report.html").read_text(encoding="utf-8")
    assert "simulated" in printed
    assert said == f"report: {folder / 'report.html'}\n"


def test_the_same_command_gives_the_same_measurements_byte_for_byte(
    finished_run, command, tiny, tmp_path, monkeypatch
):
    first, *_ = finished_run
    write_no_outputs(monkeypatch)
    done = command(*RUN, "--backbone", tiny, *GRID, "--json", "--out", tmp_path / "again")
    assert done.code == 0
    # Nothing but records on stdout, one a line, and the ones that are stored.
    lines = done.out.splitlines()
    assert lines == (tmp_path / "again" / FILE_NAME).read_text(encoding="utf-8").splitlines()
    assert all(isinstance(load_record(json.loads(line)), Record) for line in lines)

    def told(text):
        records = [json.loads(line) for line in text.splitlines()]
        return [
            (record["case_id"], record["label"], json.dumps(record["measurement"]))
            for record in records
        ]

    assert told(done.out) == told((first / FILE_NAME).read_text(encoding="utf-8"))


def test_show_prints_the_table_of_a_run_as_the_run_did(finished_run, command):
    folder, printed, _ = finished_run
    done = command("show", folder)
    assert (done.code, done.err) == (0, "")
    assert done.out == printed
    assert command("show", folder / FILE_NAME).out == done.out


def test_show_prints_what_the_run_wrote_as_markdown_and_as_csv(finished_run, command):
    folder, *_ = finished_run
    assert command("show", folder, "--markdown").out == (folder / "table.md").read_text()
    assert command("show", folder, "--csv").out == (folder / "table.csv").read_text()
    assert command("show", folder, folder, "--csv").out == (folder / "table.csv").read_text()
    phases = command("show", folder, "--markdown", "--phases").out
    assert "optimizer step" in phases
    assert len(phases) > len((folder / "table.md").read_text())


def test_report_writes_a_page_about_runs_where_it_is_told_to(finished_run, command, tmp_path):
    folder, *_ = finished_run
    page = tmp_path / "page.html"
    done = command("report", folder, folder / FILE_NAME, "--out", page)
    assert (done.code, done.out) == (0, f"{page}\n")
    assert "lora[r=2]" in page.read_text(encoding="utf-8")


def test_report_goes_beside_the_records_unless_told_otherwise(command, made_up_record, tmp_path):
    Store(tmp_path / "run").append(made_up_record())
    done = command("report", tmp_path / "run" / FILE_NAME)
    assert (done.code, done.out) == (0, f"{tmp_path / 'run' / 'report.html'}\n")


# --------------------------------------------------------------------------------------------
# What there is to choose from


def test_methods_are_listed_with_their_sources(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = command("methods")
    assert done.code == 0
    for name in registry.names():
        assert name in done.out
        assert registry.get(name).source in done.out


@pytest.mark.parametrize("name", registry.names())
def test_a_method_is_shown_with_its_fields_types_and_defaults(command, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    done = command("methods", name)
    assert done.code == 0
    method = registry.get(name)
    assert method.source in done.out
    rows = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    for field, info in method.config.model_fields.items():
        default = info.default
        shown = ",".join(default) if isinstance(default, tuple) else str(default)
        assert {"None": "-", "True": "true", "False": "false"}.get(shown, shown) in rows[field]
        assert info.description in rows[field]


def test_the_fields_of_lora_are_shown_as_they_are_written(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = command("methods", "lora").out
    assert re.search(r"^ *r +int +32 +rank", out, re.MULTILINE)
    assert re.search(r"^ *targets +str,\.\.\. +q,v ", out, re.MULTILINE)
    assert re.search(r"^ *biases +none \| all +none ", out, re.MULTILINE)
    assert "write: lora[r=...]" in out


@pytest.mark.parametrize("scheme", registry.schemes())
def test_what_a_library_has_is_listed_with_or_without_the_colon(command, scheme):
    listed = command("methods", scheme)
    assert listed.code == 0
    assert registry.names(scheme)[0] in listed.out
    assert command("methods", f"{scheme}:").out == listed.out


def test_the_version_is_told(command):
    assert command("--version").out == f"petl-bench {petl_bench.__version__}\n"


def test_backbones_are_listed_with_their_dimensions(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = command("backbones")
    assert done.code == 0
    assert all(name in done.out for name in backbones.names())
    assert "hidden 768" in done.out


# --------------------------------------------------------------------------------------------
# Help


def test_the_help_of_run_names_every_choice_that_there_is(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    text = " ".join(command("run", "--help").out.split())
    choices = [*DType, *Attention, *Optimizer, *cards.CARDS, *ERAS, "auto", "cuda", "simulated"]
    missing = [word for word in choices if not re.search(rf"(?<![\w-]){word}(?![\w-])", text)]
    assert missing == []


def test_the_help_of_run_has_the_defaults_that_a_run_has(command, monkeypatch, made_up_record):
    write_no_outputs(monkeypatch)
    asked = []

    def note(self, plan, *_):
        asked.extend([self, plan])
        return iter([made_up_record()])

    monkeypatch.setattr(Runner, "run", note)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    text = " ".join(command("run", "--help").out.split())
    assert command(*RUN, "--json").code == 0
    runner, plan = asked
    case = plan[0].case
    for option, value in {
        "--backbone": case.backbone.name,
        "--dtype": case.backbone.dtype,
        "--attention": case.backbone.attention,
        "--batch-size": case.workload.batch_size,
        "--source-length": case.workload.source_length_tokens,
        "--target-length": case.workload.target_length_tokens,
        "--optimizer": case.workload.optimizer,
        "--gpu": runner.card.name,
    }.items():
        assert re.search(rf"{option} [^\[]*\[default: \({value}\)\]", text), option
    assert {planned.label for planned in plan} == set(registry.names())


HEAVY = {"torch", "transformers", "pandas", "matplotlib", "plotly", "rich"}


@pytest.mark.parametrize(
    ("arguments", "not_needed"),
    [
        (["--help"], HEAVY | {"pydantic"}),
        (["run", "--help"], HEAVY),  # typer itself asks pydantic about the options
    ],
)
def test_the_package_runs_as_a_module_and_its_help_needs_nothing_heavy(arguments, not_needed):
    script = """
import runpy, sys

sys.argv = ["petl-bench", *sys.argv[1:]]
try:
    runpy.run_module("petl_bench", run_name="__main__")
except SystemExit as left:
    print("left with", left.code)
print(*sys.modules)
"""
    said = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    ).stdout
    *printed, left, modules = said.splitlines()
    assert printed[0].startswith("Usage: ")
    assert left == "left with 0"
    assert not_needed & set(modules.split()) == set()


def test_no_arguments_print_the_help(command):
    done = command()
    assert all(verb in done.out + done.err for verb in ("run", "show", "report", "methods"))


def test_the_version_is_the_one_that_is_installed():
    import petl_bench

    assert petl_bench.__version__ == version("petl-bench")


def test_garbage_is_searched_for_when_cases_run_and_not_while_libraries_are_imported(
    command, tiny, monkeypatch, tmp_path
):
    seen = []

    def check_fit(asked):
        del asked
        seen.append(gc.isenabled())

    def run(*_):
        seen.append(gc.isenabled())
        raise KeyboardInterrupt

    monkeypatch.setattr("petl_bench.cli.run.check_fit", check_fit)
    monkeypatch.setattr("petl_bench.runner.Runner.run", run)
    options = ["--profiler", "simulated", "--backbone", tiny, "--out", tmp_path]
    assert command("run", "-m", "lora", *options).code == 130
    assert seen == [False, True]
    assert gc.isenabled()
