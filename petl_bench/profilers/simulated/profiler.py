"""Peak CUDA memory of a step, without CUDA and without a weight in RAM."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch

from petl_bench.assembly import Trainee, assemble, initialisation, make_batch
from petl_bench.cards import Card
from petl_bench.case import Case, Parallel, Workload
from petl_bench.environment import allocator_conf
from petl_bench.errors import UsageError
from petl_bench.profilers.simulated.accounting import Accountant, Life
from petl_bench.profilers.simulated.allocator import AllocatorSettings
from petl_bench.profilers.simulated.autocast import autocast_on_meta
from petl_bench.profilers.simulated.capacity import refusal
from petl_bench.profilers.simulated.era import ERAS, Era
from petl_bench.profilers.simulated.ledger import Ledger, Window
from petl_bench.profilers.simulated.loading import adopt_trainee, loaded
from petl_bench.profilers.simulated.machines import Gpu
from petl_bench.profilers.simulated.recomputation import modes_in_recomputation
from petl_bench.profilers.simulated.roofline import Roofline
from petl_bench.profilers.simulated.values import masks_choose_all
from petl_bench.profilers.simulated.windows import contiguous, split
from petl_bench.record import Category, Fit, Measurement, Phase, PhaseMemory, TimelinePoint
from petl_bench.steps import Step
from petl_bench.training import trainable

META = torch.device("meta")


class KeepsState(Protocol):
    """What is asked of an optimizer, or of several at once."""

    @property
    def state(self) -> Mapping[torch.Tensor, Any]:
        """What is kept of each parameter, by name."""


class Witness(Protocol):
    """One who looks on while steps run, and sees tensors while they are alive."""

    def opens(self, ledger: Ledger) -> None:
        """`ledger` is new and empty."""

    def begins(self, batch: Mapping[str, torch.Tensor], optimizer: KeepsState | None) -> None:
        """Everything that the steps start with is in the ledger."""

    def ends(self, phase: Phase) -> None:
        """A phase of a step has run, and what it left is in its category."""


class SimulatedProfiler:
    """Marks phases in a ledger and says what its storages are for as soon as that is known."""

    def __init__(
        self,
        ledger: Ledger,
        trainee: Trainee,
        optimizer: KeepsState | None,
        era: Era,
        witness: Witness | None,
    ) -> None:
        self._ledger = ledger
        self._trainee = trainee
        self._optimizer = optimizer
        self._era = era
        self._witness = witness
        self.step = 0

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Everything that runs inside belongs to `phase` of the current step."""
        start = self._ledger.begin(phase)
        forward = phase is Phase.FORWARD
        with self._era.forward_pass(self._trainee) if forward else nullcontext():
            yield
        self._ledger.end(self.step, phase, start)
        if phase is Phase.FORWARD and self._optimizer is not None:
            # The step keeps nothing but the loss, so what is left is what backward will need.
            self._ledger.relabel_live(Category.TEMPORARY, Category.ACTIVATION)
        elif phase is Phase.BACKWARD:
            grads = (p.grad for p in trainable(self._trainee.model) if p.grad is not None)
            self._ledger.label(grads, Category.GRADIENT)
        elif phase is Phase.OPTIMIZER_STEP and self._optimizer is not None:
            states = self._optimizer.state.values()
            tensors = (v for state in states for v in state.values() if torch.is_tensor(v))
            self._ledger.label(tensors, Category.OPTIMIZER_STATE)
        if self._witness is not None:
            self._witness.ends(phase)


def simulate(case: Case, card: Card, era: Era = ERAS[None]) -> Measurement:
    """What `card` would need for `case`, to the byte, with the ways of `era`.

    The warm-up steps and one more are run on tensors without data; since that step then repeats
    itself exactly, further ones are replayed.
    """
    trainee = assemble(case, META)
    roofline = Roofline(Gpu(card))
    ledger = run_ledger(case, trainee, card, era, roofline=roofline)
    load, steps, timeline = _account(ledger, case.workload)
    reserved_bytes = max(memory.peak_reserved_bytes for step in steps for memory in step.values())
    return Measurement(
        total_parameters=trainee.total_parameters,
        backbone_parameters=trainee.backbone_parameters,
        trainable_parameters=trainee.trainable_parameters,
        load=load,
        initialise=_initialise(case, card, era),
        steps=steps,
        flops_per_step=ledger.flops,
        roofline=roofline.estimate(),
        # An era's contexts were larger, before kernels were loaded lazily, and are not known.
        fit=_fit(ledger, case.workload, card, reserved_bytes) if era.name is None else None,
        timeline=timeline,
    )


def run_ledger(
    case: Case,
    trainee: Trainee,
    card: Card,
    era: Era,
    witness: Witness | None = None,
    *,
    roofline: Roofline | None = None,
) -> Ledger:
    """Load, the warm-up steps, and one more; FLOPs are of that last one alone.

    `witness` hears of everything, `roofline` of the operators of the last step.

    Raises:
        UsageError: the workload's ranks cannot train the model, or could not in that era.
    """
    workload = case.workload
    if era.name is not None and workload.parallel is Parallel.FSDP2:
        raise UsageError(f"parallel: {era.name} had no fsdp2")
    ledger = new_ledger(card, era)
    if witness is not None:
        witness.opens(ledger)
    with no_collection(), era.optimizer_defaults(), loaded(ledger, trainee, workload) as rank:
        batch = make_batch(case, META)
        ledger.adopt(batch.values(), Category.INPUT)
        step = Step(rank.model, workload)
        if step.optimizer is not None:
            era.prepare(step.optimizer)
        profiler = SimulatedProfiler(ledger, rank, step.optimizer, era, witness)
        if witness is not None:
            witness.begins(batch, step.optimizer)
        with _recording(ledger, card, era):
            for profiler.step in range(workload.unsteady_steps + 1):
                if profiler.step == workload.unsteady_steps:
                    ledger.flops = 0
                    ledger.on_operator = None if roofline is None else roofline.add
                step.run(batch, profiler)
    return ledger


@contextmanager
def _recording(ledger: Ledger, card: Card, era: Era) -> Iterator[None]:
    """Inside, operators run as on `card`, and `ledger` hears of them."""
    with (
        masks_choose_all(),
        autocast_on_meta(),
        era.kernels(card),
        modes_in_recomputation(),
        ledger,
    ):
        yield


def new_ledger(card: Card, era: Era) -> Ledger:
    """An empty ledger of what `card` allocates, with the ways of `era`."""
    return Ledger(
        card=card,
        workspace_bytes=card.cublas_workspace_bytes if era.allocates_workspaces else 0,
        sums_in_place=era.sums_in_place,
    )


def _initialise(case: Case, card: Card, era: Era) -> PhaseMemory | None:
    """What the method needs before the steps, which find nothing of it but its weights."""
    run = initialisation(case)
    if run is None:
        return None
    trainee, ledger = assemble(case, META), new_ledger(card, era)
    with no_collection():
        adopt_trainee(ledger, trainee)
        with _recording(ledger, card, era):
            start = ledger.begin(Phase.INITIALISE)
            run(trainee, META)
            ledger.end(0, Phase.INITIALISE, start)
    accountant = Accountant(ledger, _settings())
    load, window = contiguous(ledger.windows)
    accountant.replay(load)
    return accountant.replay(window)


def _account(
    ledger: Ledger, workload: Workload
) -> tuple[PhaseMemory, tuple[dict[Phase, PhaseMemory], ...], tuple[TimelinePoint, ...]]:
    """Replay the ledger: its last step as often as steps are measured, then for its timeline."""
    accountant, load_memory, steady = _warmed_up(ledger, workload)
    steps = tuple(_replayed(accountant, steady) for _ in range(workload.measured_steps))
    return load_memory, steps, tuple(accountant.timeline(steady))


def _replayed(accountant: Accountant, windows: tuple[Window, ...]) -> dict[Phase, PhaseMemory]:
    """A step's memory by phase, of all the times that a phase comes."""
    phases: dict[Phase, PhaseMemory] = {}
    for window in windows:
        memory = accountant.replay(window)
        before = phases.get(window.phase)
        phases[window.phase] = before.then(memory) if before else memory
    return phases


def _fit(ledger: Ledger, workload: Workload, card: Card, reserved_bytes: int) -> Fit:
    """Whether a case that reserves `reserved_bytes` without a limit fits on `card`."""
    settings = _settings()
    refused = None
    # An allocator that never asks for more than it may have behaves as one without a limit.
    if settings.per_process_memory_fraction < 1.0 or reserved_bytes > card.capacity_bytes:
        refused = refusal(ledger, workload, card.capacity_bytes, settings)
    return Fit(capacity_bytes=settings.allowed_bytes(card.capacity_bytes), refusal=refused)


def _settings() -> AllocatorSettings:
    return AllocatorSettings.parse(allocator_conf())


def blocks_at_peak(ledger: Ledger, workload: Workload) -> tuple[Phase, dict[int, int]]:
    """The phase of the overall peak of the measured steps, and each storage's block then."""
    accountant, _, steady = _warmed_up(ledger, workload)
    window, blocks = accountant.blocks_at_peak(steady * workload.measured_steps)
    return window.phase, blocks


def lives(ledger: Ledger, workload: Workload) -> tuple[list[Life], list[TimelinePoint]]:
    """Every storage of the last measured step, and that step's highest moments."""
    accountant, _, steady = _warmed_up(ledger, workload)
    for window in steady * workload.measured_steps:
        accountant.replay(window)
    return accountant.lives(steady)


def _warmed_up(
    ledger: Ledger, workload: Workload
) -> tuple[Accountant, PhaseMemory, tuple[Window, ...]]:
    """An account that stands at the end of the warm-up, load's memory, the steady step."""
    steps = split(ledger, workload)
    accountant = Accountant(ledger, _settings(), steps)
    load_memory = accountant.replay(steps.load)
    for window in steps.warm_up:
        accountant.replay(window)
    return accountant, load_memory, steps.steady


@contextmanager
def no_collection() -> Iterator[None]:
    """No cyclic garbage collection inside: when it strikes would change the stream of frees."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
