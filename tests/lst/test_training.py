"""Ladders under what people train with: Trainer, autocast, half precision, compile, DDP."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from petl_bench.methods.lst import attach_lst, load_lst
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from . import distributed_rank

STEPS = 4


@pytest.fixture
def examples():
    """Sixteen made-up ones: the label repeats the source's first token."""
    generator = torch.Generator().manual_seed(3)
    sources = torch.randint(2, 99, (16, 6), generator=generator)
    return [
        {
            "input_ids": source,
            "attention_mask": torch.ones_like(source),
            "labels": torch.stack([source[0], torch.tensor(1)]),
        }
        for source in sources
    ]


def arguments(kind, folder, **changes):
    return kind(
        output_dir=str(folder),
        **{
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "save_steps": 2,
            "logging_steps": 1,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 5,
            **changes,
        },
    )


def ladder_of(model):
    return {name: p.detach().clone() for name, p in model.ladders.named_parameters()}


def test_trainer_resumes_where_it_was(make_t5, examples, tmp_path):
    whole = attach_lst(make_t5(), reduction=2)
    Trainer(whole, arguments(TrainingArguments, tmp_path), train_dataset=examples).train()
    resumed = attach_lst(make_t5(), reduction=2)
    trainer = Trainer(resumed, arguments(TrainingArguments, tmp_path), train_dataset=examples)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, parameter in ladder_of(whole).items():
        assert torch.equal(parameter, ladder_of(resumed)[name]), name
    # A checkpoint is a ladder's folder.
    alone = load_lst(make_t5(), tmp_path / f"checkpoint-{STEPS}")
    assert torch.equal(alone.ladders["default"].exit.weight, whole.ladders["default"].exit.weight)


def test_trainer_brings_back_the_best_checkpoint(make_t5, examples, tmp_path):
    model = attach_lst(make_t5(), reduction=2)
    trainer = Trainer(
        model,
        arguments(
            TrainingArguments,
            tmp_path,
            eval_strategy="steps",
            eval_steps=2,
            learning_rate=3.0,  # so that the first evaluation is the best one
            load_best_model_at_end=True,
            metric_for_best_model="loss",
        ),
        train_dataset=examples,
        eval_dataset=examples,
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses[0] != losses[1]
    assert best.endswith("checkpoint-2" if losses[0] < losses[1] else "checkpoint-4")
    kept = load_lst(make_t5(), best)
    for name, parameter in ladder_of(kept).items():
        assert torch.equal(parameter, ladder_of(model)[name]), name


def test_seq2seq_trainer_evaluates_by_generating(make_t5, examples, tmp_path):
    seen = []

    def keep_tokens(prediction):
        seen.append(prediction.predictions)
        return {"tokens": prediction.predictions.size}

    trainer = Seq2SeqTrainer(
        attach_lst(make_t5(), reduction=2),
        arguments(
            Seq2SeqTrainingArguments,
            tmp_path,
            predict_with_generate=True,
            generation_max_length=4,
            generation_num_beams=2,
        ),
        train_dataset=examples,
        eval_dataset=examples,
        compute_metrics=keep_tokens,
    )
    trainer.train()
    assert trainer.evaluate()["eval_tokens"] == seen[0].size > 0


def test_under_autocast_the_ladder_keeps_full_gradients(make_t5, batch):
    model = attach_lst(make_t5().train(), reduction=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert loss.isfinite()
    assert {p.grad.dtype for p in model.ladders.parameters()} == {torch.float32}


def test_beside_a_half_precision_backbone_the_ladder_is_in_its_dtype(make_t5, batch):
    model = attach_lst(make_t5().to(torch.bfloat16), reduction=2)
    model(**batch).loss.backward()
    assert {p.grad.dtype for p in model.ladders.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_a_compiled_model_computes_the_same(make_t5, batch, stirred):
    model = stirred(attach_lst(make_t5(num_layers=2).eval(), reduction=2, keep="1"))
    expected = model(**batch)
    expected.loss.backward()
    gradients = {name: p.grad for name, p in model.ladders.named_parameters()}
    model.zero_grad()
    output = torch.compile(model, backend="aot_eager")(**batch)
    output.loss.backward()
    torch.testing.assert_close(output.logits, expected.logits)
    for name, parameter in model.ladders.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_two_processes_train_one_ladder(tmp_path):
    """Each ends up with the mean of what either would have had alone."""
    script = Path(distributed_rank.__file__)
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path])
        for rank in range(distributed_rank.RANKS)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    alone = []
    for rank in range(distributed_rank.RANKS):
        model, batch = distributed_rank.model_and_batch(rank)
        model(**batch).loss.backward()
        alone.append(distributed_rank.gradients(model))
    for rank in range(distributed_rank.RANKS):
        together = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        for name, gradient in together.items():
            torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2)
