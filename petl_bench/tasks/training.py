"""THE training run: one method on one task with one seed, by transformers' Trainer.

Legend: N examples, C outputs of the task head.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from petl_bench import registry
from petl_bench.backbones import FAMILIES
from petl_bench.case import Backbone
from petl_bench.errors import UsageError
from petl_bench.method import attach
from petl_bench.method_spec import validated_config
from petl_bench.tasks.answers import Answers
from petl_bench.tasks.energy import consumed_j, spent_j
from petl_bench.tasks.labels import Example
from petl_bench.tasks.metrics import score, scores
from petl_bench.tasks.quiet import quiet
from petl_bench.tasks.record import Evaluation, Outcome, Trial
from petl_bench.tasks.task import Task
from petl_bench.tasks.vision.features import Features
from petl_bench.tasks.weights import answers_in_text
from petl_bench.training import trainable

_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "tekken.json")
"""What a tokenizer cannot be without; transformers make up an empty one."""

Encoded = list[dict[str, Any]]  # an example as the model takes it, and its label
Progress = Callable[[int], None]  # steps taken

_INITIALISING_EXAMPLES = 1024  # of Fisher information, in the code of Sung et al. 2022


class NonFiniteLossError(RuntimeError):
    """A training loss that no step can be taken from."""


class Encoder:
    """A backbone's folder, and its tokenizer; and what stands beside text in a batch.

    `answers` are set for a backbone that answers in text; `features` for a task with images.
    """

    def __init__(self, folder: Path, features: Features | None = None) -> None:
        """Of the folder.

        Raises:
            UsageError: it has none, or one that does not pad.
        """
        self.folder = folder
        self.features = features
        self.answers: Answers | None = None
        if not any(found for name in _VOCABULARIES for found in folder.glob(name)):
            raise UsageError(f"backbone: {folder} has no tokenizer")
        try:
            with quiet():  # of a model class that is not transformers'
                self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        except (OSError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise UsageError(f"backbone: the tokenizer in {folder} is amiss: {first}") from None
        if self.tokenizer.pad_token is None:
            raise UsageError(f"backbone: the tokenizer in {folder} has no padding token")

    def encode(self, examples: Sequence[Example], max_length_tokens: int) -> Encoded:
        """Every example as token ids, cut to `max_length_tokens`, pairs at the longer text."""
        if self.answers is None:
            fields = zip(*(example.texts for example in examples), strict=True)
            texts = [list(field) for field in fields]
        else:
            texts = [[self.answers.source(example) for example in examples]]
        tokens = self.tokenizer(*texts, truncation=True, max_length=max_length_tokens)
        return [
            {name: values[index] for name, values in tokens.items()} | self._beside(example)
            for index, example in enumerate(examples)
        ]

    def _beside(self, example: Example) -> dict[str, Any]:
        if self.answers is None:
            labels: Any = example.label
        else:
            labels = self.answers.target(example)
        return {"labels": labels} | ({"images": example.images} if example.images else {})

    def collate(self, examples: Encoded) -> dict[str, torch.Tensor]:
        """A batch of encoded examples, padded to the longest."""
        collator = DataCollatorWithPadding if self.answers is None else DataCollatorForSeq2Seq
        texts = [{k: v for k, v in example.items() if k != "images"} for example in examples]
        batch: dict[str, torch.Tensor] = dict(collator(self.tokenizer)(texts))
        if self.features is not None:
            images = [example["images"] for example in examples]
            batch["image_features"] = torch.from_numpy(self.features.batch(images))
        return batch


def train(
    trial: Trial,
    task: Task,
    encoder: Encoder,
    splits: dict[str, Encoded],
    progress: Progress,
) -> Outcome:
    """The trial's outcome; `splits` are train, validation and test.

    Raises:
        NonFiniteLossError: at some step the loss is infinite or no number.
    """
    set_seed(trial.seed)  # of the new head, and of what the method adds
    model = _trainee(trial, encoder.folder)
    metrics = _Metrics(task)
    watch = _Watch(model, progress)
    with TemporaryDirectory() as scratch:
        trainer = _Trainer(
            model=model,
            args=_arguments(trial, scratch),
            train_dataset=splits["train"],
            eval_dataset=splits["validation"],
            data_collator=encoder.collate,
            answers=encoder.answers,
            compute_metrics=metrics,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)  # which prints to stdout
        watch.losses = trainer.losses
        _initialise(trial, model, splits["train"], trainer.data_collator)
        energy_before_j, begin = consumed_j(), time.perf_counter()
        trainer.train()
        elapsed_s, energy_j = time.perf_counter() - begin, spent_j(energy_before_j)
        watch.bring_back_the_best()
        test = metrics.of(trainer.predict(splits["test"]))
    return Outcome(
        evaluations=tuple(watch.evaluations),
        best_step=watch.best_step,
        test=test,
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
    # Mismatched: another task's head.
    labels = backbone.config["num_labels"]
    return AutoModelForSequenceClassification, {
        "num_labels": labels,
        "ignore_mismatched_sizes": True,
    }


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


def _arguments(trial: Trial, folder: str) -> Any:
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
        label_names=["labels"],
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

    Of these it predicts classes, [B], as what greedy search generates says; of others, logits.
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
        """Trainer's own; or no loss, classes that are generated, and those of the labels, [B]."""
        if self._answers is None:
            return super().prediction_step(model, inputs, *args, **kwargs)  # type: ignore[no-any-return]
        inputs = self._prepare_inputs(inputs)
        labels_BT = inputs.pop("labels")
        generated_BT = model.generate(
            **inputs, max_new_tokens=self._answers.longest, do_sample=False, num_beams=1
        )
        # The first token is what the decoder starts from.
        return None, self._answers.said(generated_BT[:, 1:]), self._answers.said(labels_BT)


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
            name.removeprefix(_Metrics.PREFIX): value
            for name, value in metrics.items()
            if name.startswith(_Metrics.PREFIX)
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


class _Metrics:
    """The task's metrics of logits, [N, C], or of classes, [N]."""

    PREFIX = "eval_task_"  # apart from Trainer's own, such as eval_runtime

    def __init__(self, task: Task) -> None:
        self._task = task

    def of(self, predicted: Any) -> dict[str, float]:
        """Each metric, by its name."""
        outputs = predicted.predictions
        outputs = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
        flat = self._task.regression or outputs.ndim == 1
        found = outputs.reshape(-1) if flat else outputs.argmax(axis=-1)
        return scores(self._task.metrics, predicted.label_ids.tolist(), found.tolist())

    def __call__(self, predicted: Any) -> dict[str, float]:
        """As Trainer wants them; it writes "eval_" before each."""
        return {f"task_{name}": value for name, value in self.of(predicted).items()}
