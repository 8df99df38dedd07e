"""From a plan to training records, its trials one after another."""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from petl_bench import backbones, registry
from petl_bench.cards import Card
from petl_bench.case import Case, Workload
from petl_bench.environment import measured_environment, processor_environment
from petl_bench.errors import UsageError
from petl_bench.profilers.simulated.era import ERAS
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.record import Status
from petl_bench.tasks.answers import answers
from petl_bench.tasks.encoding import Encoded, Encoder, length
from petl_bench.tasks.metrics import scores
from petl_bench.tasks.planning import Bench, PlannedTrial
from petl_bench.tasks.record import Outcome, SimulatedPeak, TrainingRecord, Trial
from petl_bench.tasks.scoring import Scorer, Split
from petl_bench.tasks.splits import Splits
from petl_bench.tasks.store import Expected, TrainingStore
from petl_bench.tasks.training import NonFiniteLossError, train
from petl_bench.tasks.weights import answers_in_text


class Under(NamedTuple):
    """How far a plan is: the trial under way, its steps taken, the trials done."""

    planned: PlannedTrial
    step: int
    done: int


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
    encoder = _encoder(bench)
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


def _encoder(bench: Bench) -> Encoder:
    encoder = Encoder(bench.weights.folder, bench.task, bench.splits.features)
    if answers_in_text(bench.backbone):
        # Numbers of every split, since each is a label; words of train alone.
        learnt = bench.splits.train if bench.task.in_words else bench.splits.all
        encoder.answers = answers(bench.task, bench.splits.labels, learnt, encoder.tokenizer)
    return encoder


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
    reason = bench.weights.misfit(case)
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
