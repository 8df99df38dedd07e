"""MemoryCallback in a real training by transformers' Trainer, with made-up counters."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from petl_bench.own.recording import MemoryCallback
from petl_bench.record import Phase, PhaseMemory


class Model(nn.Module):
    """One layer, and its loss."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x, labels):
        return {"loss": (self.layer(x)[:, 0] - labels).square().mean()}


class Recorder:
    """Notes each phase, with whether there are gradients when it begins and ends."""

    def __init__(self, model):
        self.steps, self.seen, self._model = [], [], model

    def next_step(self):
        self.steps.append({})

    @contextmanager
    def phase(self, phase):
        before = self._has_gradients()
        yield
        self.seen.append((phase, before, self._has_gradients()))
        self.steps[-1][phase] = PhaseMemory(
            peak_allocated_bytes=1, peak_reserved_bytes=2, end_allocated_bytes=1
        )

    def _has_gradients(self):
        return self._model.layer.weight.grad is not None


@pytest.fixture
def train(tmp_path):
    """Factory: train `model` for three optimizer steps with a callback."""

    def run(model, callback, **options):
        rows = [{"x": torch.ones(4), "labels": torch.tensor(1.0)} for _ in range(12)]
        arguments = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=2,
            max_steps=3,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **options,
        )
        Trainer(
            model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback]
        ).train()
        return callback

    return run


@pytest.mark.parametrize("accumulate", [1, 2])
def test_phases_begin_and_end_where_the_trainers_do(train, accumulate):
    model = Model()
    recorder = Recorder(model)
    train(
        model,
        MemoryCallback(steps=2, recorder=recorder),
        gradient_accumulation_steps=accumulate,
        eval_strategy="steps",
        eval_steps=1,
    )
    first = [(Phase.FORWARD, False, False), (Phase.BACKWARD, False, True)]
    again = [(Phase.FORWARD, True, True), (Phase.BACKWARD, True, True)] * (accumulate - 1)
    step = [*first, *again, (Phase.OPTIMIZER_STEP, True, False)]
    assert recorder.seen == [(Phase.LOAD, False, False), *step, *step]  # evaluation left out
    assert len(recorder.steps) == 2
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_without_a_device_it_says_so_and_training_goes_on(train, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="no CUDA device; MemoryCallback records nothing"):
        callback = train(Model(), MemoryCallback())
    assert callback.steps == []
    with pytest.raises(RuntimeError, match="0 steps were recorded; a footprint needs two"):
        _ = callback.footprint
