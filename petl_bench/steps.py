"""A workload's step, whatever its mode: training, inference, generation.

Phases: training.py's; forward; or prefill and decode.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import nn

from petl_bench.case import Mode, Workload
from petl_bench.record import Phase
from petl_bench.training import PhaseProfiler, autocast, make_optimizer, make_scaler, training_step

Batch = Mapping[str, torch.Tensor]


class Step:
    """What a workload repeats, with what outlives one repetition: optimizer, loss scaler."""

    def __init__(self, model: nn.Module, workload: Workload) -> None:
        self.model = model
        self.workload = workload
        self.scaler = make_scaler(model, workload)
        self.optimizer = make_optimizer(model, workload.optimizer) if workload.optimizer else None

    def run(self, batch: Batch, profiler: PhaseProfiler) -> None:
        """One step on `batch`."""
        if self.optimizer is not None:
            training_step(self.model, batch, self.optimizer, self.workload, profiler, self.scaler)
        else:
            _UNTRAINED[self.workload.mode](self.model, batch, self.workload, profiler)


def inference_step(
    model: nn.Module, batch: Batch, workload: Workload, profiler: PhaseProfiler
) -> None:
    """One forward pass as in evaluation: loss and logits, no gradients."""
    device = next(iter(batch.values())).device
    with profiler.phase(Phase.FORWARD), torch.no_grad(), autocast(workload, device):
        model(**batch)


def generation_step(
    model: nn.Module, batch: Batch, workload: Workload, profiler: PhaseProfiler
) -> None:
    """`generate` of transformers: greedy or beam search with a cache, to the full length.

    No sequence ends early, since none that did would need more than this.

    Raises:
        ValueError: the model cannot generate.
    """
    from transformers import GenerationConfig, GenerationMixin  # noqa: PLC0415 - only here

    length = workload.target_length_tokens
    assert length is not None
    prompt = {name: tensor for name, tensor in batch.items() if name != "labels"}
    generator: Any = model
    if not hasattr(model, "generate"):
        raise ValueError(f"mode: generate is not for a {type(model).__name__}")
    config = GenerationConfig(
        max_new_tokens=length,
        num_beams=workload.beams,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        decoder_start_token_id=generator.generation_config.decoder_start_token_id,
    )
    length = workload.target_length_tokens
    assert length is not None  # as Workload sees to
    device = next(iter(batch.values())).device
    with _Tokens(profiler) as tokens, autocast(workload, device):

        def unfinished(*_: Any, **__: Any) -> bool:
            return tokens.seen < length

        # Counted, not read off the tokens: a simulation has none to read.
        with patch.object(GenerationMixin, "_has_unfinished_sequences", unfinished):
            generator.generate(**prompt, generation_config=config, logits_processor=[tokens])


_UNTRAINED: dict[Mode, Callable[[nn.Module, Batch, Workload, PhaseProfiler], None]] = {
    Mode.INFERENCE: inference_step,
    Mode.GENERATE: generation_step,
}


class _Tokens(ExitStack):
    """A logits processor that changes nothing; prefill ends when the first logits are there."""

    def __init__(self, profiler: PhaseProfiler) -> None:
        super().__init__()
        self.seen = 0
        self._profiler = profiler
        self.enter_context(profiler.phase(Phase.PREFILL))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: peft copies what it hands on to `generate`."""
        del memo
        return self

    def __call__(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """`logits` as they are."""
        del tokens
        self.seen += 1
        if self.seen == 1:
            self.close()
            self.enter_context(self._profiler.phase(Phase.DECODE))
        return logits
