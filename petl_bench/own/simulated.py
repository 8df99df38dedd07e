"""A user's own model, simulated: to the byte, without a GPU, without a weight in RAM."""

from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import nn

from petl_bench.assembly import Trainee
from petl_bench.cards import Card
from petl_bench.comparison.composition import compose
from petl_bench.environment import allocator_conf, simulated_environment
from petl_bench.errors import UsageError
from petl_bench.explain import live_tensor
from petl_bench.own import batches, models
from petl_bench.own.batches import Batch
from petl_bench.own.card import OnTheCard, cuda_autocast
from petl_bench.own.footprint import Footprint
from petl_bench.own.steps import Step, phases_recognised
from petl_bench.profilers.simulated.accounting import Accountant
from petl_bench.profilers.simulated.allocator import AllocatorSettings
from petl_bench.profilers.simulated.autocast import autocast_on_meta
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.ledger import Ledger, Window
from petl_bench.profilers.simulated.loading import adopt_trainee
from petl_bench.profilers.simulated.machines import Gpu
from petl_bench.profilers.simulated.profiler import (
    SimulatedProfiler,
    new_ledger,
    no_collection,
)
from petl_bench.profilers.simulated.provenance import Provenance
from petl_bench.profilers.simulated.recomputation import modes_in_recomputation
from petl_bench.profilers.simulated.roofline import Roofline
from petl_bench.profilers.simulated.values import masks_choose_all
from petl_bench.profilers.simulated.windows import contiguous
from petl_bench.record import Category, Measurement, Origin, Part, Phase, PhaseMemory

WARMUP_STEPS = 1
MEASURED_STEPS = 2  # the second shows whether the first left something behind


def simulate(
    model: nn.Module | models.Build,
    batch: Batch,
    *,
    optimizer: str | models.MakeOptimizer | models.Several,
    step: Step,
    card: Card,
    name: str,
) -> Footprint:
    """What `card` would need for `step`.

    Raises:
        UsageError: a model, batch or optimizer that cannot be used.
    """
    trainee = _trainee(models.on_meta(model))
    made = batches.on_meta(batch)
    roofline = Roofline(Gpu(card))
    with Provenance(trainee) as provenance:
        ledger = _run(
            trainee,
            made,
            optimizer=optimizer,
            given=model,
            step=step,
            card=card,
            provenance=provenance,
            roofline=roofline,
        )
    load, steps = _account(ledger)
    return Footprint(
        name=name,
        batch=batches.described(made),
        optimizer=models.optimizer_name(optimizer),
        origin=Origin.SIMULATED,
        environment=simulated_environment(card),
        measurement=Measurement(
            total_parameters=trainee.total_parameters,
            backbone_parameters=trainee.backbone_parameters,
            trainable_parameters=trainee.trainable_parameters,
            load=load,
            steps=steps,
            flops_per_step=ledger.flops,
            roofline=roofline.estimate(),
        ),
        at_peak=_at_peak(ledger, provenance),
    )


def _trainee(model: nn.Module) -> Trainee:
    names = WeakKeyDictionary({module: path for path, module in model.named_modules()})
    count = sum(parameter.numel() for parameter in model.parameters())
    return Trainee(model, None, count, names)


def _run(
    trainee: Trainee,
    batch: Batch,
    *,
    optimizer: str | models.MakeOptimizer | models.Several,
    given: nn.Module | models.Build,
    step: Step,
    card: Card,
    provenance: Provenance,
    roofline: Roofline,
) -> Ledger:
    """The ledger of loading, the warm-up and the measured steps; FLOPs are of the last one."""
    era, model = ERAS[None], trainee.model
    inputs = batches.named(batch)
    ledger = new_ledger(card, era)
    provenance.opens(ledger)
    with no_collection(), era.optimizer_defaults():
        adopt_trainee(ledger, trainee)
        ledger.adopt(inputs.values(), Category.INPUT)
        trained = models.optimizer_for(model, optimizer, given)
        profiler = SimulatedProfiler(ledger, trainee, trained, era, provenance)
        provenance.begins(inputs, trained)
        with (
            masks_choose_all(),
            autocast_on_meta(),
            cuda_autocast(),
            OnTheCard(),
            era.kernels(card),
            modes_in_recomputation(),
            ledger,
        ):
            for profiler.step in range(WARMUP_STEPS + MEASURED_STEPS):
                ledger.flops = 0
                if profiler.step == WARMUP_STEPS + MEASURED_STEPS - 1:
                    ledger.on_operator = roofline.add
                with phases_recognised(model, profiler):
                    _take(step, model, batch, trained)
    return ledger


def _take(
    step: Step, model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer | models.Several
) -> None:
    """One step.

    Raises:
        UsageError: it asks for values that are not there.
    """
    try:
        step(model, batch, models.for_step(optimizer))
    except (RuntimeError, NotImplementedError) as error:
        text = str(error).partition("\n")[0].partition(". ")[0]
        if "meta" not in text.lower():
            raise
        raise UsageError(
            f"step: asks for what tensors without data lack ({text}); where this is for a log,"
            " leave it out of the step that is simulated"
        ) from error


def _account(ledger: Ledger) -> tuple[PhaseMemory, tuple[dict[Phase, PhaseMemory], ...]]:
    accountant = Accountant(ledger, _settings())
    load, *windows = contiguous(ledger.windows)
    load_memory = accountant.replay(load)
    steps: dict[int, dict[Phase, PhaseMemory]] = {}
    for window in windows:
        memory = accountant.replay(window)
        phases = steps.setdefault(window.step, {})
        phases[window.phase] = higher(phases.get(window.phase), memory)
    return load_memory, tuple(steps[number] for number in sorted(steps) if number >= WARMUP_STEPS)


def higher(first: PhaseMemory | None, second: PhaseMemory) -> PhaseMemory:
    """Of one phase seen twice in a step: the one with the higher peak, its end the later one's."""
    if first is None:
        return second
    top = max(first, second, key=lambda memory: memory.peak_allocated_bytes)
    reserved = max(first.peak_reserved_bytes, second.peak_reserved_bytes)
    end = second.end_allocated_bytes
    return replace(top, peak_reserved_bytes=reserved, end_allocated_bytes=end)


def _at_peak(ledger: Ledger, provenance: Provenance) -> tuple[Part, ...]:
    accountant = Accountant(ledger, _settings())
    load, *windows = contiguous(ledger.windows)
    measured: list[Window] = []
    accountant.replay(load)
    for window in windows:
        if window.step < WARMUP_STEPS:
            accountant.replay(window)
        else:
            measured.append(window)
    _, blocks = accountant.blocks_at_peak(measured)
    found = (live_tensor(index, size, ledger, provenance) for index, size in blocks.items())
    return compose(found)


def _settings() -> AllocatorSettings:
    return AllocatorSettings.parse(allocator_conf())
