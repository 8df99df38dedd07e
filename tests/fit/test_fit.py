"""`petl-bench fit`: its answers beside single simulations, and what it prints and refuses."""

import csv
import functools
import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from petl_bench import cards, cli
from petl_bench.backbones import FAMILIES
from petl_bench.fit import asking
from petl_bench.fit.answers import Curve, Frontier
from petl_bench.fit.asking import Question
from petl_bench.fit.axis import FIELD, Vary
from petl_bench.fit.probe import Probe
from petl_bench.fit.tables import details, overview, to_frame
from petl_bench.plots.fit_figures import frontier_figure, memory_figure, save_fit_figures
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.suite import Suite
from petl_bench.tables import to_markdown
from petl_bench.units import MIB, format_bytes

CARD = cards.find("t4")
TINY = {
    "model_type": "t5",
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
    "num_layers": 1,
    "num_decoder_layers": 1,
}
ROOMS = tuple(CARD.context_bytes + room * MIB for room in (48, 97))  # 16 of it is workspaces


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny-t5")
    (path / "config.json").write_text(json.dumps(TINY))
    return path


@pytest.fixture(scope="module")
def plan(folder):
    workload = {"batch_size": [7], "source_length_tokens": [24], "target_length_tokens": [5]}
    suite = Suite(methods=("full",), backbone={"name": [str(folder)]}, workload=workload)
    return suite.plan()


@pytest.fixture(scope="module")
def ask(plan):
    @functools.cache
    def ask(vary, memories=ROOMS):
        question = Question(planned=plan[0], vary=vary, card=CARD, memory_bytes=memories)
        return Probe(question).curve()

    return ask


@pytest.fixture(scope="module")
def frontier(ask):
    """Two methods at two memories, and one that does not go."""
    from petl_bench.environment import simulated_environment

    first = ask(Vary.BATCH)
    answers = [answer.model_copy(update={"label": "again"}) for answer in first.answers]
    again = first.model_copy(update={"label": "again", "answers": tuple(answers)})
    skipped = first.model_copy(
        update={"label": "x", "answers": (), "points": (), "reason": "skipped: no encoder"}
    )
    return Frontier(
        vary=Vary.BATCH,
        environment=simulated_environment(CARD),
        context_bytes=CARD.context_bytes,
        memory_bytes=ROOMS,
        curves=(first, again, skipped),
    )


@pytest.mark.parametrize("vary", [Vary.BATCH, Vary.LENGTH])
def test_a_run_at_the_answer_fits_and_one_more_is_refused_as_was_said(ask, plan, vary):
    field = FIELD[vary]
    for answer in ask(vary).answers[:1]:
        card = replace(CARD, memory_bytes=answer.memory_bytes)

        def run(place, card=card):
            workload = plan[0].case.workload.model_copy(update={field: place})
            return simulate(plan[0].case.model_copy(update={"workload": workload}), card)

        seen = run(int(answer.largest.place))
        assert seen.fit.refusal is None
        assert seen.peak_allocated_bytes == answer.largest.peak_allocated_bytes
        refusal = run(int(answer.overflow.place)).fit.refusal
        assert int(answer.overflow.place) == int(answer.largest.place) + 1
        said, tensor = answer.overflow, answer.overflow.tensor
        assert (refusal.phase, refusal.category) == (said.phase, tensor.category)
        assert (refusal.operator, refusal.requested_bytes) == (
            tensor.operator,
            tensor.allocated_bytes,
        )
        assert refusal.reserved_bytes == said.reserved_bytes


def test_the_tensor_that_overflows_has_a_module_and_a_line(ask):
    tensor = ask(Vary.BATCH).answers[0].overflow.tensor
    assert tensor.module
    assert "modeling_t5.py:" in tensor.source


def test_margin_and_reserved_are_the_capacity(ask):
    for answer in ask(Vary.BATCH).answers:
        assert answer.capacity_bytes == answer.memory_bytes - CARD.context_bytes
        held = answer.largest
        assert held.margin_bytes == answer.capacity_bytes - held.peak_reserved_bytes >= 0
        assert held.peak_allocated_bytes <= held.peak_reserved_bytes


def test_the_largest_backbone_is_looked_for_among_the_family_by_size(plan):
    from petl_bench.fit.axis import axis_of_backbones

    family = FAMILIES["t5"]
    sizes = [
        family.dims(b.config).total_parameters for b in axis_of_backbones(plan[0].case.backbone)
    ]
    assert sizes == sorted(sizes)
    assert len(sizes) == len(family.published)


def test_an_answer_of_nothing_says_what_did_not_fit(ask):
    (answer,) = ask(Vary.BATCH, memories=(CARD.context_bytes + 10 * MIB,)).answers
    assert answer.largest is None
    assert answer.overflow.place == "1"


def test_tables_rows_and_json_say_the_same(frontier):
    table = details(frontier)
    assert [row[0].text for row in table.rows].count("full") == len(ROOMS)
    assert table.rows[-1][-1].text == "skipped: no encoder"
    assert [cell.text for cell in overview(frontier).rows[-1]] == ["x", "-", "-"]
    frame = to_frame(frontier)
    for answer, (_, row) in zip(frontier.answers, frame.iterrows(), strict=False):
        assert row["largest"] == answer.largest.place
        assert row["margin_bytes"] == answer.largest.margin_bytes
        assert f"{int(answer.largest.place):,}" in to_markdown(table)
    assert Frontier.model_validate_json(frontier.model_dump_json()) == frontier


def test_figures_show_every_answer_and_every_memory(frontier, tmp_path):
    bars = frontier_figure(frontier).axes[0]
    assert sorted(patch.get_width() for patch in bars.patches) == sorted(
        int(answer.largest.place) for answer in frontier.answers
    )
    lines = memory_figure(frontier).axes[0]
    assert {format_bytes(memory) + " card" for memory in ROOMS} == {
        text.get_text() for text in lines.texts
    }
    assert len(save_fit_figures(frontier, tmp_path)) == 4


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch, capsys):
    """What a command prints, and its exit code."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["petl-bench", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        return left.value.code, printed.out, printed.err

    return run


@pytest.fixture
def _in_this_process(monkeypatch):
    """Spare the tests the seconds that a process takes to import torch."""
    monkeypatch.setattr(asking, "curves", lambda questions, _: [asking.curve(q) for q in questions])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--memory 16GB", ["memory", "'16GB'", "GiB"]),
        ("--memory ,", ["memory"]),
        ("--memory 0GiB", ["memory", "0 B", "context"]),
        ("--memory 16GiB,100MiB", ["memory", "100.00 MiB", "context"]),
        ("--memory -1GiB", ["memory"]),
        ("--gpu t5", ["gpu", "'t5'", "there are: t4, "]),
        ("--vary depth", ["vary", "'depth'", *Vary]),
        ("--batch-size 3", ["batch"]),
        ("--vary length --source-length 9", ["length"]),
        ("--methods lorra", ["'lorra'", "did you mean lora"]),
        ("--json --csv", ["--json", "exclude"]),
        ("--backbone t5-small --methods lora --out /dev/null", ["out", "/dev/null"]),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_one_line_and_exit_code_2(typed, arguments, told):
    code, out, err = typed("fit", *arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for words in told:
        assert words in err


def test_processes_do_not_hear_ctrl_c_and_this_one_does():
    tell = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with asking.deaf_children():
        within = subprocess.check_output([sys.executable, "-c", tell])
    after = subprocess.check_output([sys.executable, "-c", tell])
    assert (within.strip(), after.strip()) == (b"True", b"False")


def test_misfits_beside_methods_that_fit_are_told_on_stderr(typed, monkeypatch, folder):
    def answered(questions, _):
        return [
            Curve(case=q.planned.case, label=q.planned.label, reason=why)
            for q, why in zip(questions, ["skipped: no such projection", None], strict=True)
        ]

    monkeypatch.setattr(asking, "curves", answered)
    words = ("--backbone", folder, "--memory", "16GiB", "--csv")
    code, _, err = typed("fit", "--methods", "lora[targets=up],bitfit", *words)
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("skipped: lora[targets=up] on ")
    assert err.endswith(": no such projection\n")


@pytest.mark.usefixtures("_in_this_process")
def test_csv_has_a_row_a_method_and_memory_and_what_was_asked_for_alone(typed, folder, tmp_path):
    words = (
        "--memory",
        "256MiB,300MiB",
        "--gpu",
        "t4",
        "--backbone",
        folder,
        "--source-length",
        24,
    )
    out = tmp_path / "out"
    code, printed, err = typed("fit", *words, "--methods", "bitfit", "--csv", "--out", out)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["label"] for row in rows] == ["bitfit", "bitfit"]
    assert [int(row["memory_bytes"]) for row in rows] == [256 * MIB, 300 * MIB]
    assert int(rows[0]["largest"]) < int(rows[1]["largest"])
    assert {"fit.json", "fit.md", "fit.csv", "fit_frontier.png"} <= {p.name for p in out.iterdir()}


@pytest.mark.usefixtures("_in_this_process")
def test_more_memory_than_the_card_has_is_taken_and_noted(typed, folder, monkeypatch):
    monkeypatch.setattr(
        asking,
        "curve",
        lambda question: Curve(
            case=question.planned.case, label=question.planned.label, reason="error: none"
        ),
    )
    code, out, err = typed("fit", "--memory", "16GiB", "--gpu", "t4", "--backbone", folder)
    assert code == 1  # every method failed
    assert "error" in out
    assert "PyTorch finds 14.56 GiB on a t4" in err


def test_answers_come_from_processes_of_their_own(plan, ask):
    heard = []
    question = Question(planned=plan[0], vary=Vary.BATCH, card=CARD, memory_bytes=ROOMS[:1])
    (curve,) = asking.curves([question], heard.append)
    assert heard == ["full"]
    assert curve.answers == ask(Vary.BATCH).answers[:1]
