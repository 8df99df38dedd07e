"""Tiny backbones and the parts that run a training step on them."""

import gc
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch

from petl_bench import backbones, method_spec, registry
from petl_bench import method as method_of
from petl_bench.backbones import FAMILIES
from petl_bench.case import Backbone, Mode, Workload
from petl_bench.profilers.simulated.autocast import autocast_on_meta
from petl_bench.profilers.simulated.cuda_semantics import CudaKernels, foreach_by_default
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.recomputation import modes_in_recomputation
from petl_bench.profilers.simulated.values import masks_choose_all
from petl_bench.record import Category, Phase
from petl_bench.steps import Step

TINY = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
    "num_layers": 4,
    "num_decoder_layers": 4,
}
ENCODER = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 200,
}
BART = {
    "vocab_size": 96,
    "d_model": 32,
    **{
        f"{stack}_{field}": value
        for stack in ("encoder", "decoder")
        for field, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 64}.items()
    },
    "max_position_embeddings": 200,
}
DECODER = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
}
TINY_OTHERS = {
    "clip-t5": {**TINY, "feature_size": 10, "feature_grid": 3, "pooled_grid": 2},
    "bert": ENCODER,
    "roberta": ENCODER,
    "bert-mlm": ENCODER,
    "roberta-mlm": ENCODER,
    "bart-encoder": BART,
    "bart": BART,
    "llama": DECODER,
    "qwen2": {**DECODER, "tie_word_embeddings": True},
    "qwen3": DECODER,
    "mistral": DECODER,
    # Architectures without a file of ours.
    "auto-causal-lm": {
        "model_type": "opt",
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 200,
    },
    "auto-sequence-classification": {"model_type": "electra", "embedding_size": 32, **ENCODER},
    "auto-seq2seq-lm": {"model_type": "pegasus", **BART, "pad_token_id": 0},
}
"""A tiny configuration of every family but T5's, as a config.json has it."""

SMALL_WORKLOAD = Workload(batch_size=3, source_length_tokens=7, target_length_tokens=5)


def tiny_t5(**changes: Any) -> Backbone:
    config = {**backbones.find("t5-small").config, **TINY, **changes}
    return Backbone(name="tiny-t5", family="t5", config=config)


def tiny(family: str, **changes: Any) -> Backbone:
    """A tiny backbone of `family`."""
    if family == "t5":
        return tiny_t5(**changes)
    config = FAMILIES[family].normalise({**TINY_OTHERS[family], **changes})
    return Backbone(name=f"tiny-{family}", family=family, config=config)


@dataclass
class Built:
    """A backbone with a method attached."""

    backbone: Backbone
    plain: torch.nn.Module
    model: torch.nn.Module
    ports: Any
    config: Any
    method: Any

    @property
    def dims(self):
        return self.ports.dims

    def batch(self, workload=SMALL_WORKLOAD, device="cpu"):
        family = FAMILIES[self.backbone.family]
        part = {"batch_size": workload.part_size, "accumulation_steps": 1}
        workload = workload.model_copy(update=part)
        return family.batch(self.backbone, workload, torch.device(device))


def build(spec: str, backbone: Backbone, device: str = "cpu", seed: int = 0) -> Built:
    ((_, asked),) = method_spec.parse_specs(spec)
    choice = method_spec.fitted(asked, backbone)
    method = registry.get(choice.name)
    config = method_spec.validated_config(method, choice.config)
    family = FAMILIES[backbone.family]
    torch.manual_seed(seed)
    with torch.device(device):
        plain = family.build(backbone)
        ports = family.ports(plain)
        model = method_of.attach(method, plain, ports, config)
    return Built(backbone, plain, model, ports, config, method)


class NoProfiler:
    @contextmanager
    def phase(self, phase):
        del phase
        yield


@dataclass
class LedgerProfiler:
    ledger: Ledger
    step: int = field(default=0)

    @contextmanager
    def phase(self, phase):
        start = self.ledger.begin(phase)
        yield
        self.ledger.end(self.step, phase, start)


@cache
def _spare_what_is_imported() -> None:
    """Once: later collections, one a ledger, need not look through torch and transformers."""
    gc.freeze()


def run_ledger(built: Built, workload=SMALL_WORKLOAD, device="meta", steps=2, **options) -> Ledger:
    """The ledger of `steps` steps, host scalars included so that devices can be compared."""
    ledger = Ledger(frozenset({"meta", "cpu"}), **options)
    if workload.checkpointing:
        built.method.checkpoint(built.model)
    built.model.train(workload.mode is Mode.TRAINING)
    profiler = LedgerProfiler(ledger)
    gc.collect()
    _spare_what_is_imported()
    gc.disable()
    try:
        with foreach_by_default(device):
            step = Step(built.model, workload)
            batch = built.batch(workload, device)
            ledger.adopt(built.model.parameters(), Category.PARAMETER)
            ledger.adopt(batch.values(), Category.INPUT)
            with (
                masks_choose_all(),
                autocast_on_meta(),
                CudaKernels(),
                modes_in_recomputation(),
                ledger,
            ):
                for profiler.step in range(steps):
                    step.run(batch, profiler)
    finally:
        gc.enable()
    return ledger


def phase_peaks(ledger: Ledger, step: int) -> dict[Phase, int]:
    """Highest requested bytes in each phase of `step`, from the raw events."""
    peaks, live, done = {}, 0, 0
    for window in ledger.windows:
        peak = live
        for event in ledger.events[done : window.stop]:
            live += ledger.sizes[event] if event >= 0 else -ledger.sizes[~event]
            peak = max(peak, live)
        done = window.stop
        if window.step == step:
            peaks[window.phase] = peak
    return peaks


@pytest.fixture(scope="session")
def make_tiny_t5():
    return tiny_t5


@pytest.fixture(scope="session")
def make_tiny():
    return tiny


@pytest.fixture(scope="session")
def attach():
    return build


@pytest.fixture(scope="session")
def ledger_of():
    return run_ledger


@pytest.fixture(scope="session")
def peaks_of():
    return phase_peaks


@pytest.fixture(scope="session")
def small_workload():
    return SMALL_WORKLOAD


@pytest.fixture(scope="session")
def no_profiler():
    return NoProfiler()
