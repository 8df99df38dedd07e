"""Bad input, made up by hypothesis: refused in one line with exit code 2, or taken; nothing else.

Each test runs EXAMPLES inputs; docs/robustness.md adds them up.
"""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import typer.main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from petl_bench import api, backbones, method_spec, registry
from petl_bench.cli import main
from petl_bench.comparison.thresholds import parse
from petl_bench.errors import UsageError
from petl_bench.own.footprint import Footprint
from petl_bench.record import Record
from petl_bench.store import read_records
from petl_bench.suite import PlannedCase, load_suite

EXAMPLES = 250
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,  # CI must not fail by chance
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
BASELINE = Path(__file__).parents[2] / "benchmarks/baselines/t5-base.jsonl"

WORDS = st.one_of(
    st.sampled_from(
        [
            *("full", "lora", "lst", "lora[r=8]", "t5-small", "name", "methods", "backbone", "1%"),
            *(
                "workload",
                "batch_size",
                "peak_allocated",
                "",
                "[",
                "]",
                "=",
                "|",
                ",",
                "a:b",
                "2MiB",
            ),
        ]
    ),
    st.text(max_size=12),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.integers(10**18, 10**30)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


def toml(value):
    """`value` as TOML, or as near as it comes."""
    if isinstance(value, dict):
        inside = (f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items())
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("NaN", "nan").replace("Infinity", "inf")


TABLES = st.dictionaries(
    st.sampled_from(["name", "dtype", "batch_size", "optimizer", "seed", "x", "clip_grad_norm"]),
    VALUES,
    max_size=3,
)
SUITES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda methods, backbone, workload: "\n".join(
            [
                f"methods = {toml(methods)}",
                "[backbone]",
                *(f"{key} = {toml(value)}" for key, value in backbone.items()),
                "[workload]",
                *(f"{key} = {toml(value)}" for key, value in workload.items()),
            ]
        ).encode("utf-8", "surrogateescape"),
        st.lists(WORDS, max_size=3) | VALUES,
        TABLES,
        TABLES,
    ),
)


def refused_or(function, *arguments):
    """What `function` returns; None if it refuses. Nothing but a UsageError gets past it."""
    try:
        return function(*arguments)
    except UsageError:
        return None


@fuzz
@given(SUITES)
def test_a_suite_is_a_plan_or_refused(tmp_path, document):
    file = tmp_path / "suite.toml"
    file.write_bytes(document)
    suite = refused_or(load_suite, file)
    if suite is not None and suite.methods:
        plan = refused_or(suite.plan)
        assert plan is None or all(isinstance(cell, PlannedCase) for cell in plan)


def mutated(record, path, value):
    """`record` with `value` where the numbers of `path` lead."""
    place = record
    for step in path[:-1]:
        inside = list(place.values()) if isinstance(place, dict) else place
        if not isinstance(inside, list) or not inside:
            break
        below = inside[step % len(inside)]
        if not isinstance(below, (dict, list)) or not below:
            break
        place = below
    if isinstance(place, dict):
        place[list(place)[path[-1] % len(place)]] = value
    else:
        place[path[-1] % len(place)] = value
    return json.dumps(record).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def good_line():
    return BASELINE.read_bytes().splitlines()[0]


LINES = st.one_of(
    st.binary(max_size=60),
    VALUES.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    st.tuples(st.lists(st.integers(0, 40), min_size=1, max_size=6), VALUES),
    st.integers(0, 20_000),
)


def broken(line, how):
    if isinstance(how, tuple):
        return mutated(json.loads(line), *how)
    return line[:how] if isinstance(how, int) else how


@pytest.mark.parametrize(
    ("file", "document", "read"),
    [
        ("suite.toml", b"a = " + b"[" * 100_000, load_suite),
        ("records.jsonl", b"[" * 100_000 + b"\n", lambda path: list(read_records(path))),
        ("config.json", b'{"model_type":' * 100_000, lambda path: backbones.find(str(path.parent))),
        ("model.json", b"[" * 100_000, Footprint.load),
    ],
)
def test_what_is_nested_too_deeply_is_refused(tmp_path, file, document, read):
    (tmp_path / file).write_bytes(document)
    with pytest.raises(UsageError, match=file):
        read(tmp_path / file)


@fuzz
@given(LINES)
def test_a_line_is_a_record_or_refused_with_its_number(tmp_path, good_line, how):
    file = tmp_path / "records.jsonl"
    file.write_bytes(good_line + b"\n" + broken(good_line, how) + b"\n")
    before = file.read_bytes()
    records = refused_or(lambda: list(read_records(file)))
    if records is not None:
        assert all(isinstance(record, Record) for record in records)
        refused_or(lambda: api.compare(records[:1], records[-1:]).model_dump_json())
        api.to_frame(records)
    assert file.read_bytes() == before


CONFIG = {**backbones.find("t5-small").config, "model_type": "t5"}
CONFIGS = st.one_of(
    st.binary(max_size=60),
    st.tuples(st.lists(st.integers(0, 40), min_size=1, max_size=2), VALUES).map(
        lambda change: mutated(dict(CONFIG), *change)
    ),
)


@fuzz
@given(CONFIGS)
def test_a_config_is_a_backbone_or_refused(tmp_path, document):
    (tmp_path / "config.json").write_bytes(document)
    found = refused_or(backbones.find, str(tmp_path))
    assert found is None or found.model_dump_json()


@fuzz
@given(st.one_of(st.binary(max_size=60), VALUES.map(lambda v: json.dumps(v).encode())))
def test_a_baseline_is_a_footprint_or_refused(tmp_path, document):
    (tmp_path / "model.json").write_bytes(document)
    assert refused_or(Footprint.load, tmp_path / "model.json") is None


@fuzz
@given(st.one_of(WORDS, st.builds("{}[{}={}]".format, WORDS, WORDS, WORDS), st.text()))
def test_a_method_is_a_choice_or_refused(text):
    for _, choice in refused_or(method_spec.parse_specs, text) or ():
        assert choice.name in registry.names()


@fuzz
@given(st.one_of(WORDS, st.builds("{}:{}".format, WORDS, WORDS), st.text()))
def test_a_threshold_is_one_or_refused(text):
    refused_or(parse, text)


VERBS = ("run", "show", "report", "explain", "compare", "baseline", "methods", "backbones", "")
OPTIONS = (
    *("--methods", "--suite", "--backbone", "--batch-size", "--fail-on", "--from", "--strict"),
    *("--json", "--gpu", "--by", "--out", "update", "--markdown", "-m", "--", "-"),
)


@fuzz
@given(st.sampled_from(VERBS), st.lists(st.sampled_from(OPTIONS) | WORDS, max_size=4))
def test_a_command_line_never_ends_in_a_traceback(tmp_path, verb, words):
    """Nothing is simulated: whatever would be, is told apart by its exit."""
    out, err = io.StringIO(), io.StringIO()
    words = [word.replace("\0", "") for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(sys, "argv", ["petl-bench", *filter(None, [verb]), *words])
        for place in ("run.run_plan", "again.run_plan", "run._write_outputs"):
            patch.setattr(f"petl_bench.cli.{place}", lambda *_: [])
        patch.setattr("petl_bench.explain.explain_step", _would_simulate)
        patch.setattr("typer.main.get_command", _built_once)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
            main()
    said = err.getvalue()
    assert left.value.code in {None, 0, 1, 2}, said
    assert "Traceback" not in said
    assert "defect" not in said
    assert not list(tmp_path.glob("*.jsonl"))


_built_once = cache(typer.main.get_command)


def _would_simulate(*_arguments, **_options):
    raise SystemExit(0)
