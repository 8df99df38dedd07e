"""action.yml: what others write `uses: OWNER/petl-bench@v1` for, its steps run as GitHub would."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}

# Stands where petl-bench or python would, and notes how it was called.
STUB = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> calls
printf '<%s>' "$@" >> quoted
exit ${STUB_CODE:-0}
"""


@pytest.fixture
def job(tmp_path):
    """Factory: run the action's shell steps with inputs, by stubs; the calls and exit code."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("petl-bench", "python"):
        (bin_folder / name).write_text(STUB)
        (bin_folder / name).chmod(0o755)

    def run(path=bin_folder, code=0, **inputs):
        given = {name: about.get("default") for name, about in ACTION["inputs"].items()}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        output = tmp_path / "output"
        for step in ACTION["runs"]["steps"]:
            if "run" not in step or not holds(step.get("if"), given):
                continue
            variables = {name: filled(text, given) for name, text in step["env"].items()}
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=tmp_path,
                env={
                    **os.environ,
                    **variables,
                    "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
                    "GITHUB_OUTPUT": str(output),
                    "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
                    "STUB_CODE": str(code) if step.get("id") == "compare" else "0",
                },
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                return done.returncode, done.stdout + done.stderr
        calls = tmp_path / "calls"
        return 0, calls.read_text().splitlines() if calls.exists() else done.stdout

    run.folder = tmp_path
    return run


def holds(condition, inputs):
    """`inputs.NAME != ''`, the one kind of condition that the action has."""
    if condition is None:
        return True
    name = re.fullmatch(r"inputs\.([\w-]+) != ''", condition)[1]
    return inputs[name] != ""


def filled(text, inputs):
    contexts = {"github.action_path": str(ROOT)}
    contexts |= {f"inputs.{name}": value for name, value in inputs.items()}
    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda match: contexts[match[1]], text)


def test_no_input_is_pasted_into_a_script_and_each_is_used():
    for step in STEPS.values():
        assert "${{" not in step.get("run", ""), "an input could be code"
    text = (ROOT / "action.yml").read_text()
    for name, about in ACTION["inputs"].items():
        assert f"inputs.{name}" in text
        assert about["description"]


def test_the_own_workflow_gives_inputs_that_there_are():
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    (own,) = [step for step in steps if step.get("uses") == "./"]
    assert set(own["with"]) <= set(ACTION["inputs"])
    for setting in WORKFLOW["jobs"]["memory"]["strategy"]["matrix"]["include"]:
        baseline = own["with"]["baseline"].replace("${{ matrix.backbone }}", setting["backbone"])
        assert (ROOT / baseline).exists()
    assert any(step.get("run") == "bash .ci/run" for step in steps)
    assert {
        step["uses"].partition("@")[2][:1] for step in steps if "@" in step.get("uses", "")
    } == {"v"}


def test_its_steps_call_what_they_should(job):
    code, calls = job(
        baseline="a baseline.jsonl",
        run="--methods lora[r=8]\n--batch-size 2",
        fail_on="peak_allocated:1%\npeak_reserved:2 MiB\n",
        strict="true",
    )
    assert code == 0
    assert calls == [
        f"python -m pip install --quiet -c {ROOT}/constraints.txt {ROOT}",
        (
            "petl-bench run --profiler simulated --out petl-bench/new --methods lora[r=8]"
            " --batch-size 2"
        ),
        (
            "petl-bench compare --junit petl-bench/junit.xml --fail-on peak_allocated:1%"
            " --fail-on peak_reserved:2 MiB --strict a baseline.jsonl petl-bench/new"
        ),
    ]
    assert (
        "<peak_reserved:2 MiB><--strict><a baseline.jsonl>" in (job.folder / "quoted").read_text()
    )
    assert (job.folder / "output").read_text() == "junit=petl-bench/junit.xml\n"


def test_without_a_run_the_baseline_is_simulated_again(job):
    _, calls = job(baseline="base.jsonl")
    assert calls[-1] == (
        "petl-bench compare --junit petl-bench/junit.xml --fail-on peak_allocated base.jsonl"
    )
    assert len(calls) == 2


def test_what_compare_exits_with_is_the_jobs(job):
    for code in (1, 2):
        assert job(baseline="base.jsonl", code=code)[0] == code


@pytest.mark.slow
def test_the_real_command_in_the_steps(job, tmp_path):
    """Simulate and compare as they stand, with this checkout's petl-bench."""
    shape = {"model_type": "t5", "vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64}
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.json").write_text(
        json.dumps({**shape, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2})
    )
    (tmp_path / "bin" / "petl-bench").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -P -m petl_bench "$@"\n'
    )
    code, said = job(
        baseline="petl-bench/new/records.jsonl",
        run="--backbone tiny --batch-size 2 --methods full",
        strict="true",
    )
    assert code == 0, said
    assert "memory check passed" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "petl-bench/junit.xml").exists()
