"""Memory of a real training by transformers' Trainer, phase by phase.

trainer = Trainer(..., callbacks=[memory := MemoryCallback()])
trainer.train()
print(memory.footprint)
"""

import warnings
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch
from torch import nn
from transformers import TrainerCallback

from petl_bench.environment import measured_environment
from petl_bench.own.footprint import Footprint
from petl_bench.own.measured import MergingProfiler
from petl_bench.profilers.cuda import device_used_bytes
from petl_bench.record import Measurement, Origin, Phase, PhaseMemory
from petl_bench.training import trainable

NO_DEVICE = (
    "petl-bench: no CUDA device; MemoryCallback records nothing. petl_bench.simulate tells what"
    " a training step takes without one."
)


class Recorder(Protocol):
    """What the callback asks of a profiler."""

    steps: list[dict[Phase, PhaseMemory]]

    def next_step(self) -> None:
        """Phases from here on belong to a new step."""

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        """A context around one phase."""


class MemoryCallback(TrainerCallback):  # type: ignore[misc]
    """Records the allocator's peaks of forward, backward and optimizer step while training.

    Forward is the model's own; the rest of the loss counts to backward. Where gradients
    accumulate, a phase's peak is the highest of the step's. Each border waits for the device, so
    training is a little slower. Without a CUDA device it warns once and records nothing.
    """

    def __init__(self, *, steps: int = 10, recorder: Recorder | None = None) -> None:
        """Record the first `steps` optimizer steps; `recorder` is CUDA's counters by default."""
        super().__init__()
        self._most = steps
        self._recorder = recorder or MergingProfiler()
        self._records = recorder is not None or torch.cuda.is_available()
        self._phase = ExitStack()
        self._under_way = False
        self._hooks: list[Any] = []
        self._model: nn.Module | None = None
        self._load: PhaseMemory | None = None
        self._batch_size = 0

    @property
    def steps(self) -> list[dict[Phase, PhaseMemory]]:
        """Peaks by phase, one dictionary a step; the first makes the optimizer's state."""
        return self._recorder.steps

    @property
    def footprint(self) -> Footprint:
        """What a step took after the first, as `petl_bench.measure` would say it.

        Raises:
            RuntimeError: fewer than two steps were recorded.
        """
        enough = len(self.steps) > 1  # the first is warm-up
        if not enough or self._model is None or self._load is None:
            raise RuntimeError(f"{len(self.steps)} steps were recorded; a footprint needs two")
        count = sum(parameter.numel() for parameter in self._model.parameters())
        return Footprint(
            name=type(self._model).__name__,
            batch={"per device": f"{self._batch_size} examples"},
            optimizer="trainer",
            origin=Origin.MEASURED,
            environment=measured_environment(),
            measurement=Measurement(
                total_parameters=count,
                backbone_parameters=count,
                trainable_parameters=sum(p.numel() for p in trainable(self._model)),
                load=self._load,
                steps=tuple(self.steps[1:]),
                device_used_bytes=device_used_bytes(torch.device("cuda")),
            ),
        )

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any
    ) -> None:
        """Listen to the model."""
        del state, control
        if not self._records:
            warnings.warn(NO_DEVICE, stacklevel=2)
            return
        self._model, self._batch_size = model, args.per_device_train_batch_size
        self._recorder.next_step()
        with self._recorder.phase(Phase.LOAD):
            pass  # it is loaded by now
        self._load = self._recorder.steps.pop()[Phase.LOAD]
        self._hooks = [
            model.register_forward_pre_hook(lambda *_: self._begin(Phase.FORWARD)),
            model.register_forward_hook(lambda *_: self._begin(Phase.BACKWARD)),
        ]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Phases from here on are a new step's."""
        del args, state, control
        self._under_way = self._records and len(self.steps) < self._most
        if self._under_way:
            self._recorder.next_step()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Gradients are there and clipped."""
        del args, state, control
        self._begin(Phase.OPTIMIZER_STEP)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The gradients are gone: what runs now (evaluation, say) is no step's."""
        del args, state, control
        self._phase.close()
        self._under_way = False

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the model as it was."""
        del args, state, control
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _begin(self, phase: Phase) -> None:
        if self._under_way:
            self._phase.close()
            self._phase.enter_context(self._recorder.phase(phase))
