"""The gate as CI uses it: a slip in a method turns it red and is named; nothing else does."""

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import petl_bench
from petl_bench.cli import main
from petl_bench.suite import Suite
from petl_bench.units import format_bytes

ROOT = Path(__file__).parents[2]
TINY = {
    "model_type": "t5",
    "vocab_size": 96,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "num_layers": 3,
    "num_decoder_layers": 2,
}
BATCH, SOURCE, TARGET, RANK = 64, 64, 8, 32

# Two commands in one process, and run's worker is forked from it: each would take seconds to import
# torch.
BOTH = """
import sys

import petl_bench
from petl_bench.cli import main
from petl_bench.worker import warm_up
from warm import warmed

assert petl_bench.__file__.startswith(sys.argv[1])
warm_up()
codes = []
for command in sys.argv[2:]:
    sys.argv = ["petl-bench", *command.split()]
    try:
        with warmed():
            main()
    except SystemExit as left:
        codes.append(left.code or 0)
print(*codes, sep="\\n", file=sys.stderr)
"""
SLIP = """
    for module in lora.modules():
        if isinstance(module, peft.tuners.lora.Linear):
            module.lora_B["default"].register_forward_pre_hook(
                lambda _module, args: (torch.nn.functional.silu(args[0]),)
            )
    return lora


def trainable_parameters("""


@pytest.fixture(scope="module")
def place(tmp_path_factory, warm):
    """A folder with a tiny backbone and its finished run."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "tiny-t5").mkdir()
    (folder / "tiny-t5" / "config.json").write_text(json.dumps(TINY))
    workload = {"batch_size": [BATCH], "source_length_tokens": [SOURCE]}
    suite = Suite(
        methods=["lora"],
        backbone={"name": [str(folder / "tiny-t5")]},
        workload={**workload, "target_length_tokens": [TARGET]},
    )
    with warm():
        records = petl_bench.run(suite, out=folder / "base")
    assert petl_bench.read(folder / "base") == records
    frame = petl_bench.to_frame(records)
    assert list(frame["status"]) == ["ok", "ok"]
    assert frame.equals(petl_bench.to_frame(folder / "base"))
    return folder


@pytest.fixture
def command(monkeypatch, capsys, place):
    """Factory: run petl-bench in this process; its exit code and output."""

    def run(*arguments, **variables):
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["petl-bench", *map(str, arguments)])
        for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return left.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def slipped(place):
    """petl-bench with a slip in LoRA, as it would be installed."""
    home = place / "slipped"
    skip = shutil.ignore_patterns("*.pyc.*")  # that another process is about to rename
    shutil.copytree(ROOT / "petl_bench", home / "petl_bench", ignore=skip)
    shutil.copytree(ROOT / "methods", home / "petl_bench/methods", ignore=skip)
    lora = home / "petl_bench/methods/lora.py"
    text = lora.read_text()
    changed = text.replace("    return lora\n\n\ndef trainable_parameters(", SLIP.lstrip("\n"))
    assert changed != text
    lora.write_text(f"import peft\nimport torch\n{changed}")
    return home


@pytest.mark.slow
def test_one_more_activation_kept_turns_ci_red_and_is_named(command, place, slipped):
    code, said, _ = command("baseline", "update", "baseline.jsonl", "--from", "base")
    assert (code, said) == (0, "baseline.jsonl: 2 cases\n")

    sizes = f"--batch-size {BATCH} --source-length {SOURCE} --target-length {TARGET}"
    judged = subprocess.run(
        [
            *(sys.executable, "-c", BOTH, slipped),
            f"run --profiler simulated --backbone tiny-t5 --methods lora {sizes} --out new",
            "compare baseline.jsonl new --junit junit.xml",
        ],
        cwd=place,
        env={**os.environ, "PYTHONPATH": f"{slipped}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stderr
    assert judged.stderr.splitlines()[-2:] == ["0", "1"]  # run's exit code, and compare's

    # SiLU keeps its input beside its result, which B's product keeps: one more tensor of R columns
    # a LoRA module, each row one token.
    encoder = 3 * BATCH * SOURCE * RANK * 4
    lines = judged.stdout.splitlines()
    assert any(line.startswith("lora: regressed: peak allocated +") for line in lines)
    for role in ("q", "v"):
        (named,) = [
            line
            for line in lines
            if f"encoder.block.0-2.layer.0.SelfAttention.{role}.lora_B" in line
        ]
        assert f"+{format_bytes(encoder)} activation" in named
        assert "3 more tensors by aten::silu at" in named
        assert "methods/lora.py" in named
    failures = ET.parse(place / "junit.xml").findall("testcase/failure")  # noqa: S314 - our own
    assert [failure.attrib["type"] for failure in failures] == ["regressed"]


def test_the_same_again_passes_and_ci_gets_its_pages(command, place):
    base = place / "base"
    summary = place / "summary.md"
    summary.write_text("# Before\n")
    code, said, err = command(
        *("compare", base, base, "--strict", "--fail-on", "peak_allocated:0", "--json"),
        GITHUB_STEP_SUMMARY=summary,
        GITHUB_ACTIONS="true",
    )
    assert (code, err) == (0, "")
    assert {case["verdict"] for case in json.loads(said)["cases"]} == {"unchanged"}
    text = summary.read_text()
    assert text.startswith("# Before\n### petl-bench: memory check passed")
    assert "2 cases: 2 unchanged" in text


def test_a_regression_annotates_and_a_baseline_updates_whole(command, place):
    lines = (place / "base/records.jsonl").read_text().splitlines()
    lora = json.loads(lines[1])
    for step in lora["measurement"]["steps"]:
        for memory in step.values():
            memory["peak_allocated_bytes"] -= 512
            memory["by_category"]["parameter"] -= 512
    file = place / "lower.jsonl"
    file.write_text(f"{lines[0]}\n{json.dumps(lora)}\n")
    code, said, err = command("compare", file, "base", GITHUB_ACTIONS="true")
    assert code == 1
    assert "regressed  lora" in said
    assert err.startswith("::error title=petl-bench lora::lora: regressed: peak allocated +512 B")

    code, said, _ = command("baseline", "update", file, "--from", "base")
    assert code == 0
    assert "lora: regressed: peak allocated +512 B" in said
    assert command("compare", file, "base", "--strict")[0] == 0
    written = file.read_bytes()
    assert b'"timeline":[]' in written
    assert str(place).encode() not in written
    command("baseline", "update", file, "--from", "base")
    assert file.read_bytes() == written
    assert not list(place.glob(".lower*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compare", "nowhere", "base"), "records: cannot read nowhere: No such file"),
        (("compare", "base", "nowhere"), "records: cannot read nowhere"),
        (("compare", "empty.jsonl", "base"), "records: empty.jsonl holds none"),
        (("compare", "base", "base", "--fail-on", "peak:1%"), "field: no field 'peak'"),
        (("compare", "base", "base", "--fail-on", "device_used:1%"), "no case has device_used"),
        (("compare", "base", "base", "--junit", "no/where.xml"), "junit: cannot write no/where"),
        (("baseline", "update", "none.jsonl"), "baseline: none.jsonl is not there; name a run"),
        (("baseline", "update", "none.jsonl", "--from", "empty.jsonl"), "from: no record there"),
    ],
)
def test_what_cannot_be_compared_exits_2_in_one_line(command, place, arguments, said):
    (place / "empty.jsonl").write_text("")
    code, _, err = command(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert not (place / "none.jsonl").exists()
