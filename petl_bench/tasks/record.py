"""One method trained on a task with one seed: the question and the answer, a JSON line each.

Metrics are fractions, as their libraries give them. History of the schema:
  1  first version.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from petl_bench.case import Backbone, Frozen, MethodChoice, PositiveInt
from petl_bench.record import Environment, Status

SCHEMA_VERSION: Literal[1] = 1


class Data(Frozen):
    """What was trained and scored on."""

    sha256: str  # of every example, in order
    train_examples: PositiveInt
    validation_examples: PositiveInt
    test_examples: PositiveInt


class Recipe(Frozen):
    """How it is trained: AdamW, a linear schedule with warm-up, an evaluation each epoch.

    What is not here is that of Sung et al. 2022: betas 0.9 and 0.999, no weight decay, gradients
    clipped to a norm of 1.
    """

    batch_size: PositiveInt
    steps: PositiveInt
    warmup_steps: Annotated[int, Field(ge=0, strict=True)]
    learning_rate: Annotated[float, Field(gt=0)]  # at the end of the warm-up
    max_length_tokens: PositiveInt  # longer texts are cut


class Trial(Frozen):
    """The question. Of two alike, one answer is enough."""

    task: str
    data: Data
    backbone: Backbone
    weights_sha256: str
    method: MethodChoice
    recipe: Recipe
    seed: Annotated[int, Field(ge=0, strict=True)]

    @property
    def trial_id(self) -> str:
        """First 16 hex digits of the sha256 of the trial's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Evaluation(Frozen):
    """One look at the validation split."""

    step: PositiveInt  # steps taken by then
    train_loss: float  # mean since the last one
    metrics: dict[str, float]


class Outcome(Frozen):
    """The answer: scores, time and memory of one training run."""

    evaluations: Annotated[tuple[Evaluation, ...], Field(min_length=1)]
    best_step: PositiveInt  # whose weights were tested: the first with the best validation score
    test: dict[str, float]
    total_parameters: PositiveInt
    trainable_parameters: PositiveInt
    step_s: Annotated[float, Field(gt=0)]  # median over the steps but the first
    elapsed_s: float  # of training and its evaluations
    peak_allocated_bytes: int | None = None  # of the training steps; None without a CUDA device
    # Joules of the whole card in elapsed_s, by NVML; None without its counter.
    energy_j: Annotated[float, Field(ge=0)] | None = None


class SimulatedPeak(Frozen):
    """What a step with the longest example of train needs on `card`, by simulation."""

    card: str
    source_length_tokens: PositiveInt
    peak_allocated_bytes: int
    peak_reserved_bytes: int


class TrainingRecord(Frozen):
    """One trial's question, place and answer."""

    schema_version: Literal[1] = SCHEMA_VERSION
    trial_id: str
    trial: Trial
    label: str  # the method as it was asked for; for display
    status: Status
    reason: str | None = None  # one sentence, when status is not ok
    environment: Environment
    method_source_sha256: str
    constant: dict[str, float]  # the test metrics of always saying train's most frequent label
    outcome: Outcome | None = None
    simulated: SimulatedPeak | None = None
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingRecord":
        if (self.status is Status.OK) != (self.outcome is not None):
            raise ValueError("a record has an outcome if, and only if, its status is ok")
        if self.status is not Status.OK and not self.reason:
            raise ValueError(f"a record with status {self.status} must give its reason")
        return self
