"""From what was asked to training records: the plan, and its trials one after another."""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from petl_bench import backbones, method_spec, registry
from petl_bench.assembly import unsupported
from petl_bench.backbones import FAMILIES
from petl_bench.backbones.heads import Head
from petl_bench.cards import Card
from petl_bench.case import Backbone, Case, Workload
from petl_bench.environment import measured_environment, processor_environment
from petl_bench.errors import UsageError
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.record import Status
from petl_bench.suite import PlannedCase
from petl_bench.tasks.answers import answers
from petl_bench.tasks.encoding import Encoded, Encoder, length
from petl_bench.tasks.metrics import scores
from petl_bench.tasks.rates import Rates
from petl_bench.tasks.record import Data, Outcome, Recipe, SimulatedPeak, TrainingRecord, Trial
from petl_bench.tasks.scoring import Scorer, Split
from petl_bench.tasks.splits import Splits
from petl_bench.tasks.store import Expected, TrainingStore
from petl_bench.tasks.task import Kind, Task
from petl_bench.tasks.training import NonFiniteLossError, train
from petl_bench.tasks.weights import Weights, answers_in_text

_MOST_WARMUP_STEPS = 500  # as in Sung et al. 2022
_HEADS = {
    Kind.CHOICE: Head.MULTIPLE_CHOICE,
    Kind.SPAN: Head.QUESTION_ANSWERING,
    Kind.ENTITIES: Head.TOKEN_CLASSIFICATION,
}
"""What an encoder answers with, where it is not a classifier of whole texts."""
_ANY_OUTPUTS = 2  # of a head, where no method asks how many


class Asked(NamedTuple):
    """What the user may choose of a recipe; None: the default."""

    epochs: int | None = None
    batch_size: int | None = None
    max_steps: int | None = None
    learning_rates: Rates = Rates()
    warmup_steps: int | None = None

    def check(self) -> None:
        """Refuse a number that makes no sense whatever the data.

        Raises:
            UsageError: there is one.
        """
        for name in ("epochs", "batch_size", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: must be at least 1 (got {value})")


class PlannedTrial(NamedTuple):
    """A trial, and its method as it was asked for."""

    label: str
    trial: Trial


class Under(NamedTuple):
    """How far a plan is: the trial under way, its steps taken, the trials done."""

    planned: PlannedTrial
    step: int
    done: int


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A task and the weights that methods are tried on."""

    task: Task
    splits: Splits
    weights: Weights

    @property
    def backbone(self) -> Backbone:
        """The weights' architecture, with a head for the task.

        Raises:
            UsageError: it does not see images as the task has them, or answers in no words.
        """
        found = self.weights.backbone(self.splits.outputs, _HEADS.get(self.task.kind))
        if self.task.kind is Kind.WORDS and not answers_in_text(found):
            raise UsageError(
                f"backbone: {self.task.name} is answered in words, and {found.name} is an encoder,"
                " which has none; take an encoder-decoder"
            )
        _check_sight(found, self.splits)
        return found

    def plan(self, methods: str, seeds: Sequence[int], asked: Asked) -> list[PlannedTrial]:
        """The trials, none twice: all methods with the first seed, then with the next.

        Raises:
            UsageError: an unknown method, or a number that makes no sense.
        """
        asked.check()
        backbone = self.backbone
        data = Data(
            sha256=self.splits.sha256,
            train_examples=len(self.splits.train),
            validation_examples=len(self.splits.validation),
            test_examples=len(self.splits.test),
        )
        choices = [
            (label, method_spec.fitted(choice, backbone))
            for label, choice in method_spec.parse_specs(methods)
        ]
        asked.learning_rates.check(choices)
        plan = [
            PlannedTrial(
                label,
                Trial(
                    task=self.task.name,
                    data=data,
                    backbone=backbone,
                    weights_sha256=self.weights.sha256,
                    method=choice,
                    recipe=self._recipe(asked.learning_rates.of(label, choice), asked, backbone),
                    seed=seed,
                ),
            )
            for seed in seeds
            for label, choice in choices
        ]
        return list({planned.trial.trial_id: planned for planned in plan}.values())

    def _recipe(self, learning_rate: float, asked: Asked, backbone: Backbone) -> Recipe:
        batch_size = asked.batch_size or self.task.batch_size
        an_epoch = -(-len(self.splits.train) // batch_size)
        steps = (asked.epochs or self.task.epochs) * an_epoch
        steps = min(steps, asked.max_steps or steps)
        longest = FAMILIES[backbone.family].longest(backbone.config)
        most = self.task.max_length_tokens
        warmup = asked.warmup_steps
        try:
            return Recipe(
                batch_size=batch_size,
                steps=steps,
                # The paper's, but never most of a short run.
                warmup_steps=min(_MOST_WARMUP_STEPS, steps // 10) if warmup is None else warmup,
                learning_rate=learning_rate,
                max_length_tokens=min(most, longest or most),
            )
        except ValidationError as error:
            raise UsageError(method_spec.first_error(error)) from None


def cases(task: Task, weights: Weights, methods: str) -> list[PlannedCase]:
    """What is asked for, with no data nor weights read yet: enough to tell which methods fit.

    Raises:
        UsageError: an unknown method, or a backbone that is not for the task.
    """
    backbone = weights.backbone(_ANY_OUTPUTS, _HEADS.get(task.kind))
    return [
        PlannedCase(
            label=label,
            case=Case(
                backbone=backbone,
                method=method_spec.fitted(choice, backbone),
                workload=Workload(),
            ),
        )
        for label, choice in method_spec.parse_specs(methods)
    ]


def misfit(weights: Weights, case: Case) -> str | None:
    """Why the case's method does not go with its backbone, or not with these weights of it."""
    method = registry.get(case.method.name)
    config = method_spec.validated_config(method, case.method.config)
    return unsupported(case) or method.unsupported_weights(config, weights.folder)


def run(
    bench: Bench,
    plan: Sequence[PlannedTrial],
    store: TrainingStore,
    card: Card,
    progress: Callable[[Under], None],
) -> Iterator[TrainingRecord]:
    """Records of `plan` in its order: those in `store` already, and new ones, stored.

    `card` is what memory is simulated for, beside what a CUDA device measures.
    """
    environment = measured_environment() if torch.cuda.is_available() else processor_environment()
    encoder = Encoder(bench.weights.folder, bench.task, bench.splits.features)
    if answers_in_text(bench.backbone):
        # Numbers of every split, since each is a label; words of train alone.
        learnt = bench.splits.train if bench.task.in_words else bench.splits.all
        encoder.answers = answers(bench.task, bench.splits.labels, learnt, encoder.tokenizer)
    max_length_tokens = plan[0].trial.recipe.max_length_tokens
    examples = encoder.encode(bench.splits.train, max_length_tokens, trains=True)
    scorers = _scorers(bench, encoder, max_length_tokens)
    constant = _constant(bench)
    for done, planned in enumerate(plan):

        def step(number: int, planned: PlannedTrial = planned, done: int = done) -> None:
            progress(Under(planned, number, done))

        step(0)
        trial = planned.trial
        sha256 = registry.source_sha256(registry.get(trial.method.name))
        expected = Expected(trial.trial_id, environment, sha256)
        record = store.finished(expected)
        if record is None:
            case = _case(trial, examples, bench.splits)
            answer = _skip(bench, case)
            if answer is None:
                # FutureWarning: peft 0.21 asks transformers 5.23 by an old name.
                with warnings.catch_warnings(action="ignore", category=FutureWarning):
                    answer = _outcome(partial(train, trial, encoder, examples, scorers, step))
                    answer["simulated"] = _simulated(case, card)
            record = TrainingRecord(
                **expected._asdict(), trial=trial, label=planned.label, constant=constant, **answer
            )
            store.append(record)
        yield record


def _scorers(bench: Bench, encoder: Encoder, max_length_tokens: int) -> dict[str, Scorer]:
    """Of the splits that are only looked at: by length, so that batches need little padding."""
    splits = bench.splits
    return {
        name: Scorer(
            task=bench.task,
            labels=splits.labels,
            split=Split(
                examples=examples,
                encoded=sorted(encoder.encode(examples, max_length_tokens), key=length),
            ),
            answers=encoder.answers,
        )
        for name, examples in {"validation": splits.validation, "test": splits.test}.items()
    }


def _skip(bench: Bench, case: Case) -> dict[str, Any] | None:
    reason = misfit(bench.weights, case)
    return {"status": Status.SKIPPED, "reason": reason} if reason else None


def _outcome(train_it: Callable[[], Outcome]) -> dict[str, Any]:
    """What a record says of a training run: its outcome, or why there is none."""
    try:
        return {"status": Status.OK, "outcome": train_it()}
    except torch.OutOfMemoryError as error:
        return {"status": Status.OOM, "reason": str(error).partition("\n")[0]}
    except NonFiniteLossError as error:
        return {"status": Status.ERROR, "reason": str(error)}
    except UsageError:
        raise  # a missing library: nothing else would fare better
    except Exception as error:  # noqa: BLE001 - a method that fails is a result, told by its record
        first = str(error).strip().partition("\n")[0]
        return {"status": Status.ERROR, "reason": f"{type(error).__name__}: {first}"}
    finally:
        gc.collect()  # the last model must not be in the next one's memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _check_sight(backbone: Backbone, splits: Splits) -> None:
    family, config = FAMILIES[backbone.family], backbone.config
    if splits.features is None:
        return
    most = family.most_images(config)
    if splits.images > most:
        takes = f"takes at most {most} images" if most else "sees no images"
        raise UsageError(f"backbone: {backbone.name} {takes}; the task has {splits.images}")
    cells, size = splits.features.array.shape[1:]
    grid = config["feature_grid"]
    assert isinstance(grid, int)
    if (cells, size) != (grid**2, config["feature_size"]):
        raise UsageError(
            f"backbone: {backbone.name} sees {grid} x {grid} cells of {config['feature_size']}"
            f" features; the task's images have {cells} of {size}"
        )


def _case(trial: Trial, train_split: Encoded, splits: Splits) -> Case:
    """The trial's step as a simulation asks for it, with the longest example that it meets."""
    workload = Workload(
        batch_size=trial.recipe.batch_size,
        source_length_tokens=max(map(length, train_split)),
        images=splits.images,
        choices=splits.task.most_choices,
    )
    if answers_in_text(trial.backbone):
        longest = max(len(example["labels"]) for example in train_split)
        workload = workload.model_copy(update={"target_length_tokens": longest})
    return Case(
        backbone=trial.backbone,
        method=trial.method,
        workload=backbones.fitted(trial.backbone, workload),
    )


def _simulated(case: Case, card: Card) -> SimulatedPeak | None:
    """None where a step cannot be simulated: no reason to lose a training run."""
    try:
        measurement = simulate(case, card, ERAS[None])
    except Exception:  # noqa: BLE001 - whatever a method does on tensors without data
        return None
    return SimulatedPeak(
        card=card.name,
        source_length_tokens=case.workload.source_length_tokens,
        peak_allocated_bytes=measurement.peak_allocated_bytes,
        peak_reserved_bytes=measurement.peak_reserved_bytes,
    )


def _constant(bench: Bench) -> dict[str, float]:
    labels = [example.label for example in bench.splits.test]
    return scores(bench.task.metrics, labels, [bench.splits.most_frequent] * len(labels))
