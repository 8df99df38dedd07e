"""Commands that ask a record's question again."""

import shlex
from collections import Counter
from collections.abc import Iterator
from typing import Any

from petl_bench import backbones
from petl_bench.case import Backbone, Frozen, Workload
from petl_bench.record import Origin, Record
from petl_bench.tasks import packaged
from petl_bench.tasks.rows import MethodRow, TaskGroup

_BACKBONE_OPTIONS = {"dtype": "--dtype", "attention": "--attention", "quantize": "--quantize"}
_WORKLOAD_OPTIONS = {
    "batch_size": "--batch-size",
    "source_length_tokens": "--source-length",
    "target_length_tokens": "--target-length",
    "optimizer": "--optimizer",
    "mode": "--mode",
    "beams": "--beams",
    "autocast": "--autocast",
    "checkpointing": "--checkpointing",
    "accumulation_steps": "--accumulation-steps",
    "clip_grad_norm": "--clip-grad-norm",
    "zero_grad": "--zero-grad",
    "parallel": "--parallel",
    "world_size": "--world-size",
}


def run_command(record: Record) -> str:
    """The command that gets this record again; what no option says goes through a suite file."""
    workload = record.case.workload
    fields = type(workload).model_fields
    words = ["petl-bench", "run", "--methods", record.label, *_case_options(record)]
    words += ["--profiler", "cuda" if record.origin is Origin.MEASURED else "simulated"]
    if record.origin is Origin.SIMULATED:
        words += ["--gpu", record.environment.device]
        if record.environment.emulates:
            words += ["--emulate", record.environment.emulates]
    beyond = {
        name: getattr(workload, name)
        for name in fields
        if name not in _WORKLOAD_OPTIONS and getattr(workload, name) != fields[name].default
    }
    if not beyond:
        return shlex.join(words)
    lines = ["[workload]", *(f"{name} = {_toml(value)}" for name, value in beyond.items())]
    suite = " ".join(["printf", "'%s\\n'", *map(shlex.quote, lines)])
    return f"{suite} > suite.toml && {shlex.join([*words, '--suite', 'suite.toml'])}"


def explain_command(record: Record) -> str:
    """The command that tells what is behind a simulated record's timeline."""
    words = ["petl-bench", "explain", record.label, *_case_options(record)]
    words += ["--gpu", record.environment.device]
    if record.environment.emulates:
        words += ["--emulate", record.environment.emulates]
    return shlex.join([*words, "--html", "step.html"])


def train_commands(group: TaskGroup) -> list[str]:
    """The commands that train the group again: one a recipe, learning rates by method."""
    members: dict[tuple[int, ...], list[MethodRow]] = {}
    rates: Counter[tuple[int | str, ...]] = Counter()
    for row in group.rows:
        recipe = row.recipe
        key = recipe.batch_size, recipe.steps, recipe.warmup_steps
        # A command has one rate a method: the second goes into the second command.
        members.setdefault((*key, rates[*key, row.label]), []).append(row)
        rates[*key, row.label] += 1
    return [_train_command(group, rows) for rows in members.values()]


def _train_command(group: TaskGroup, rows: list[MethodRow]) -> str:
    trial, recipe = group.records[0].trial, rows[0].recipe
    words = ["petl-bench", "train", "--task", trial.task]
    name = trial.backbone.name
    words += ["--backbone", name if name in packaged.BACKBONES else f"path/to/{name}"]
    if trial.task not in packaged.DATA:
        words += ["--data", f"path/to/{trial.task}"]
    seeds = dict.fromkeys(str(r.trial.seed) for row in rows for r in (*row.done, *row.others))
    words += ["--methods", ",".join(dict.fromkeys(row.label for row in rows))]
    words += ["--seeds", ",".join(seeds), "--batch-size", str(recipe.batch_size)]
    epochs, rest = divmod(recipe.steps, -(-trial.data.train_examples // recipe.batch_size))
    words += ["--epochs", str(epochs + bool(rest))]
    if rest:
        words += ["--max-steps", str(recipe.steps)]
    rates = dict.fromkeys(f"{row.label}={row.recipe.learning_rate}" for row in rows)
    words += ["--warmup-steps", str(recipe.warmup_steps), "--learning-rate", ",".join(rates)]
    return shlex.join(words)


def _case_options(record: Record) -> list[str]:
    backbone = record.case.backbone
    built_in = backbone.name in backbones.names()
    words = ["--backbone", backbone.name if built_in else f"path/to/{backbone.name}"]
    words += _given(backbone, Backbone, _BACKBONE_OPTIONS)
    return [*words, *_given(record.case.workload, Workload, _WORKLOAD_OPTIONS)]


def _given(value: Frozen, kind: type[Frozen], options: dict[str, str]) -> Iterator[str]:
    """The options for what differs from its default."""
    for name, option in options.items():
        given, default = getattr(value, name), kind.model_fields[name].default
        if given is True:
            yield option
        elif given not in (default, None):  # what is None goes with the backbone or the mode
            yield from (option, str(given))
    if isinstance(value, Workload) and value.optimizer and value.clip_grad_norm is None:
        yield from (_WORKLOAD_OPTIONS["clip_grad_norm"], "0")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else f'"{value}"'
