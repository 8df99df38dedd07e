"""From what was asked to trials: what of a recipe is the user's, the task's, the method's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import ValidationError

from petl_bench import method_spec
from petl_bench.backbones import FAMILIES
from petl_bench.backbones.heads import Head
from petl_bench.case import Backbone, Case, Workload
from petl_bench.errors import UsageError
from petl_bench.suite import PlannedCase
from petl_bench.tasks.rates import Rates
from petl_bench.tasks.record import Data, Recipe, Trial
from petl_bench.tasks.splits import Splits
from petl_bench.tasks.task import Kind, Task
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
