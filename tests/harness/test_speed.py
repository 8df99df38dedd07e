"""petl-bench speed, and why a CPU is no card."""

import json
import sys

import pytest

from petl_bench import cards, processors
from petl_bench.cli import main
from petl_bench.errors import UsageError
from petl_bench.processors import Kind
from petl_bench.profilers.simulated import calibration

CPU = "epyc-zen5"


@pytest.fixture
def said(monkeypatch, capsys, tiny):
    """Exit code, stdout and stderr of a request about a tiny backbone."""

    def say(*words):
        request = ["petl-bench", "speed", "--backbone", str(tiny), "--batch-size", "2", *words]
        monkeypatch.setattr(sys, "argv", request)
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capsys.readouterr()

    return say


def test_a_named_cpu_needs_no_timing(said, monkeypatch):
    monkeypatch.delattr(calibration, "calibrated")
    code, out, err = said("--on", CPU, "--methods", "bitfit,peft:xlora", "--json")
    assert (code, err) == (0, "")
    full, bitfit, refused = map(json.loads, out.splitlines())
    assert [full["method"], bitfit["method"]] == ["full", "bitfit"]
    assert 0 < bitfit["step_s"] < full["step_s"]
    assert full["step_s"] == pytest.approx(
        sum(full[f"{kind}_bound_s"] for kind in ("compute", "memory", "launch"))
    )
    assert "the source's tokens" in refused["reason"]


def test_a_table_tells_times_beside_full_fine_tuning(said):
    code, out, _ = said("--on", CPU, "--methods", "lst")
    assert code == 0
    assert "AMD EPYC" in out
    (full,) = [line.split() for line in out.splitlines() if line.startswith("full")]
    assert full[4] == "1.00"


def test_this_cpu_is_timed_where_none_is_named(said, monkeypatch):
    monkeypatch.setattr(calibration, "calibrated", lambda: processors.find(CPU))
    code, out, err = said("--methods", "full")
    assert (code, err) == (0, "timing this CPU\n")
    assert "full" in out


@pytest.mark.parametrize("on", ["epyc", "a100-80gb"])
def test_a_cpu_that_is_not_known_is_one_line(said, on):
    code, out, err = said("--on", on)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: on: no CPU {on!r}; ")


@pytest.mark.parametrize("name", ["cpu", CPU])
def test_a_cpu_is_no_card(name):
    with pytest.raises(UsageError, match=f"gpu: {name} is a CPU.*petl-bench speed"):
        cards.find(name)


def test_every_rate_of_a_machine_is_timed(monkeypatch):
    """Quickly here, with small matrices: that none is missing, or less than nothing."""
    monkeypatch.setattr(calibration, "SIDE", 64)
    monkeypatch.setattr(calibration, "COUNT", 8)
    monkeypatch.setattr(calibration, "ELEMENTS", 1_000)
    found = calibration.calibrated()
    assert set(found.element_s) == set(Kind) - {Kind.PLAIN}
    assert min(found.flops_per_s, found.bytes_per_s, found.launch_s) > 0
    assert min(found.element_s.values()) > 0
