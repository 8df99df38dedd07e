"""THE training run: one method on one task with one seed, by transformers' Trainer.

Legend: B batch, T tokens of an answer.
"""

import math
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from petl_bench import registry
from petl_bench.backbones import FAMILIES, class_named
from petl_bench.case import Backbone
from petl_bench.method import attach
from petl_bench.method_spec import validated_config
from petl_bench.tasks.answers import Answers
from petl_bench.tasks.encoding import Encoded, Encoder
from petl_bench.tasks.energy import consumed_j, spent_j
from petl_bench.tasks.metrics import score
from petl_bench.tasks.quiet import quiet
from petl_bench.tasks.record import Evaluation, Outcome, Trial
from petl_bench.tasks.scoring import Scorer
from petl_bench.tasks.task import Kind
from petl_bench.tasks.weights import answers_in_text
from petl_bench.training import trainable

Progress = Callable[[int], None]  # steps taken

_PREFIX = "task_"  # of a metric, apart from Trainer's own, such as runtime
_KEPT = f"eval_{_PREFIX}"  # as Trainer hands them on
_INITIALISING_EXAMPLES = 1024  # of Fisher information, in the code of Sung et al. 2022


class NonFiniteLossError(RuntimeError):
    """A training loss that no step can be taken from."""


def train(
    trial: Trial,
    encoder: Encoder,
    examples: Encoded,
    scorers: Mapping[str, Scorer],
    progress: Progress,
) -> Outcome:
    """The trial's outcome, trained with `examples`; `scorers` are of validation and test.

    Raises:
        NonFiniteLossError: at some step the loss is infinite or no number.
    """
    set_seed(trial.seed)  # of the new head, and of what the method adds
    model = _trainee(trial, encoder.folder)
    validation, test = scorers["validation"], scorers["test"]
    tags = encoder.task.kind is Kind.ENTITIES and encoder.answers is None
    watch = _Watch(model, progress)
    with TemporaryDirectory() as scratch:
        trainer = _Trainer(
            model=model,
            args=_arguments(trial, encoder.targets, scratch),
            train_dataset=examples,
            eval_dataset=validation.split.encoded,
            data_collator=encoder.collate,
            answers=encoder.answers,
            compute_metrics=lambda found: {
                f"{_PREFIX}{name}": value
                for name, value in validation.of(found.predictions).items()
            },
            preprocess_logits_for_metrics=_likeliest_class if tags else None,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)  # which prints to stdout
        watch.losses = trainer.losses
        _initialise(trial, model, examples, trainer.data_collator)
        energy_before_j, begin = consumed_j(), time.perf_counter()
        trainer.train()
        elapsed_s, energy_j = time.perf_counter() - begin, spent_j(energy_before_j)
        watch.bring_back_the_best()
        trainer.compute_metrics = None  # they are validation's
        tested = test.of(trainer.predict(test.split.encoded).predictions)
    return Outcome(
        evaluations=tuple(watch.evaluations),
        best_step=watch.best_step,
        test=tested,
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable_parameters=sum(parameter.numel() for parameter in trainable(model)),
        step_s=median(watch.times_s[1:] or watch.times_s),
        elapsed_s=elapsed_s,
        peak_allocated_bytes=watch.peak_bytes,
        energy_j=energy_j,
    )


def _trainee(trial: Trial, weights: Path) -> nn.Module:
    backbone = trial.backbone
    kind, options = _kind(backbone)
    with quiet():  # that the head is new is known
        model = kind.from_pretrained(
            str(weights),
            dtype=torch.float32,
            attn_implementation=backbone.attention.value,
            **options,
        )
    method = registry.get(trial.method.name)
    ports = FAMILIES[backbone.family].ports(model)
    return attach(method, model, ports, validated_config(method, trial.method.config))


def _kind(backbone: Backbone) -> tuple[Any, dict[str, Any]]:
    """The model's class, and what its `from_pretrained` is told of the task."""
    own_class = FAMILIES[backbone.family].own_class
    if own_class is not None:
        return own_class(), {}
    if answers_in_text(backbone):
        return AutoModelForSeq2SeqLM, {}
    named = FAMILIES[backbone.family].architectures
    kind = class_named(named[0]) if named else AutoModelForSequenceClassification
    # Mismatched: another task's head.
    options = {"num_labels": backbone.config["num_labels"], "ignore_mismatched_sizes": True}
    return kind, options


def _initialise(trial: Trial, model: nn.Module, examples: Encoded, collate: Any) -> None:
    """What the method does before training, with examples one by one."""
    method = registry.get(trial.method.name)
    initialise = method.initialisation(validated_config(method, trial.method.config))
    if initialise is None:
        return
    count = min(len(examples), _INITIALISING_EXAMPLES)
    drawn = random.Random(trial.seed).sample(examples, count)  # noqa: S311 - no secret
    device = next(model.parameters()).device
    initialise(model, ({k: v.to(device) for k, v in collate([each]).items()} for each in drawn))


def _arguments(trial: Trial, label_names: list[str], folder: str) -> Any:
    recipe = trial.recipe
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        max_steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        seed=trial.seed,
        data_seed=trial.seed,
        eval_strategy="epoch",
        save_strategy="no",  # _Watch keeps the best weights
        logging_strategy="no",  # and the losses
        report_to=[],
        label_names=label_names,
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    if arguments.n_gpu > 1:  # Trainer would give each a batch of its own
        arguments._n_gpu = 1  # noqa: SLF001 - as transformers' own scripts do
    return arguments


class _Trainer(Trainer):  # type: ignore[misc] # transformers has no types
    """Trainer that keeps every loss, stops at one that is not finite, and tells answers in text.

    Of these it predicts the tokens, [B, T], that greedy search generates; of others, logits.
    """

    def __init__(self, *, answers: Answers | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.losses: list[float] = []
        self._answers = answers

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss, [], as Trainer's own."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.losses.append(loss.item())
        if not math.isfinite(self.losses[-1]):
            raise NonFiniteLossError(f"the loss is {self.losses[-1]} at step {len(self.losses)}")
        return loss

    @torch.no_grad()
    def prediction_step(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor | None, Any, torch.Tensor | None]:
        """Trainer's own; or no loss, the tokens that are generated, and the labels, [B, T]."""
        if self._answers is None:
            return super().prediction_step(model, inputs, *args, **kwargs)  # type: ignore[no-any-return]
        inputs = self._prepare_inputs(inputs)
        labels_BT = inputs.pop("labels")
        generated_BT = model.generate(
            **inputs, max_new_tokens=self._answers.longest, do_sample=False, num_beams=1
        )
        # The first token is what the decoder starts from.
        return None, generated_BT[:, 1:], labels_BT


class _Watch(TrainerCallback):  # type: ignore[misc] # likewise
    """Times steps, takes their memory, and keeps the best weights.

    They are kept in the processor's memory: what trains is small for most methods, and no method
    needs a way of its own to be saved and loaded.
    """

    def __init__(self, model: nn.Module, progress: Progress) -> None:
        self.losses: list[float] = []
        self.evaluations: list[Evaluation] = []
        self.times_s: list[float] = []
        self.peak_bytes: int | None = None
        self.best_step = 0
        self._best: list[torch.Tensor] = []
        self._best_score = -math.inf
        self._model = model
        self._progress = progress
        self._seen = 0  # losses by the last evaluation
        self._begin = 0.0
        self._cuda = torch.cuda.is_available()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._begin = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, _control: Any, **__: Any) -> None:
        if self._cuda:
            torch.cuda.synchronize()
            self.peak_bytes = max(self.peak_bytes or 0, torch.cuda.max_memory_allocated())
        self.times_s.append(time.perf_counter() - self._begin)
        self._progress(state.global_step)

    def on_evaluate(
        self, _args: Any, state: Any, _control: Any, metrics: dict[str, float], **__: Any
    ) -> None:
        own = {
            name.removeprefix(_KEPT): value
            for name, value in metrics.items()
            if name.startswith(_KEPT)
        }
        if score(own) > self._best_score:
            self._best_score, self.best_step = score(own), state.global_step
            # Copied even where they are on the processor already: training goes on in place.
            self._best = [p.detach().to("cpu", copy=True) for p in trainable(self._model)]
        loss = fmean(self.losses[self._seen :])
        self.evaluations.append(Evaluation(step=state.global_step, train_loss=loss, metrics=own))
        self._seen = len(self.losses)

    def bring_back_the_best(self) -> None:
        """The model as it was at the best evaluation."""
        with torch.no_grad():
            for parameter, best in zip(trainable(self._model), self._best, strict=True):
                parameter.copy_(best)


def _likeliest_class(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A token's class instead of its logits, which would fill the memory."""
    del labels
    return logits.argmax(dim=-1)
