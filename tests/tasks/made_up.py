"""Made-up training records, with round numbers that a reader can check by eye."""

from datetime import UTC, datetime

from petl_bench import method_spec
from petl_bench.case import Backbone
from petl_bench.record import Environment, Status
from petl_bench.tasks.record import (
    Data,
    Evaluation,
    Outcome,
    Recipe,
    SimulatedPeak,
    TrainingRecord,
    Trial,
)
from petl_bench.units import MIB

PLACE = Environment(
    device="a processor",
    platform="Linux",
    python="3.12",
    torch="2.13",
    transformers="5.23",
    peft="0.21",
    petl_bench="0.1",
)


def record(
    method,
    seed,
    accuracy,
    *,
    label=None,
    task="rte",
    peak=None,
    measured=None,
    energy=None,
    reason=None,
    rate=3e-4,
    steps=500,
    trainable=1_000_000,
    validation=None,
    backbone="made-up",
    device="a processor",
):
    """Validation is 0.1 below the test unless it is given."""
    ((spec, choice),) = method_spec.parse_specs(method)
    trial = Trial(
        task=task,
        data=Data(sha256=task, train_examples=2490, validation_examples=138, test_examples=139),
        backbone=Backbone(name=backbone, family="none", config={}),
        weights_sha256="1",
        method=choice,
        recipe=Recipe(
            batch_size=100,
            steps=steps,
            warmup_steps=50,
            learning_rate=rate,
            max_length_tokens=128,
        ),
        seed=seed,
    )
    outcome = None
    if reason is None:
        best = accuracy - 0.1 if validation is None else validation
        looks = [
            Evaluation(step=250 * n, train_loss=1.0 / n, metrics={"accuracy": best - 0.1 * (n - 1)})
            for n in (1, 2)
        ]
        outcome = Outcome(
            evaluations=tuple(looks),
            best_step=250,
            test={"accuracy": accuracy},
            total_parameters=200_000_000,
            trainable_parameters=trainable,
            step_s=0.25,
            elapsed_s=200.0,
            peak_allocated_bytes=measured,
            energy_j=energy,
        )
    simulated = SimulatedPeak(
        card="a100-80gb",
        source_length_tokens=99,
        peak_allocated_bytes=peak or 0,
        peak_reserved_bytes=peak or 0,
    )
    return TrainingRecord(
        trial_id=trial.trial_id,
        trial=trial,
        label=label or spec,
        status=Status.ERROR if reason else Status.OK,
        reason=reason,
        environment=PLACE.model_copy(update={"device": device}),
        method_source_sha256="2",
        constant={"accuracy": 0.5},
        outcome=outcome,
        simulated=simulated if peak else None,
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


_METHODS = [  # as asked for, accuracy, its change from seed to seed, peak in MiB, trainable
    ("full", 0.86, 0.004, 900, 22_000_000),
    ("lora[r=4]", 0.84, 0.006, 620, 74_000),
    ("lora[r=16]", 0.85, 0.003, 626, 295_000),
    ("lora[r=64]", 0.855, 0.005, 650, 1_180_000),
    ("adapter[bottleneck=8]", 0.835, 0.010, 640, 80_000),
    ("adapter[bottleneck=64]", 0.85, 0.004, 660, 600_000),
    ("bitfit", 0.82, 0.008, 560, 28_000),
    ("prompt", 0.71, 0.030, 980, 38_000),
    ("lst[reduction=8]", 0.80, 0.012, 240, 250_000),
    ("lst[reduction=4]", 0.82, 0.009, 270, 700_000),
    ("lst[reduction=2]", 0.83, 0.006, 340, 2_400_000),
    ("lst[reduction=4,initialise=fisher]", 0.79, 0.020, 270, 700_000),
]


def records(*, tasks=("reviews",), lower=0.0, count=None, **options):
    """Three seeds of the first `count` of twelve choices on each task, a little lower on each."""
    return [
        record(
            method,
            seed,
            accuracy - number * lower + (seed - 1) * change,
            task=task,
            peak=size * MIB,
            trainable=trainable,
            **options,
        )
        for number, task in enumerate(tasks)
        for method, accuracy, change, size, trainable in _METHODS[:count]
        for seed in (0, 1, 2)
    ]
