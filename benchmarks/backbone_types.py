"""Every text architecture of transformers', simulated: writes docs/backbones.md.

python benchmarks/backbone_types.py [TYPE ...]

Answers are kept in docs/backbones.jsonl, so that a run that was stopped goes on; named types are
asked again. The page is written from all answers that are there.
An architecture has transformers' default configuration with few layers, written to a config.json
and asked for by its path, once for each head that transformers has for it. It has a process of its
own, so that none can stop the others.
"""

import gc
import json
import os
import re
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers.models.auto import modeling_auto

from petl_bench import cards
from petl_bench.environment import simulated_environment
from petl_bench.errors import UsageError
from petl_bench.jobs import Task
from petl_bench.record import Origin, Status
from petl_bench.suite import Suite
from petl_bench.worker import run_task

PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
ANSWERS = PAGE.with_suffix(".jsonl")
PAGE_TEXT = """\
# Backbones of transformers'

`--backbone` takes a built-in name (`petl-bench list backbones`), or the folder, the config.json or
the hub's name of any text model that transformers build as a language model, an encoder-decoder
or a classifier. Full fine-tuning, LoRA, BitFit, prompts and peft's methods run on what a model is
made of, found in the model itself, built without data. Methods that meet layers one by one, LST,
adapters and prefixes among them, run where the layers can be read:

- one list of layers, each with self-attention and a feed-forward of one or two matrices before a
  last one; queries, keys and values from one projection or from three, shared by heads or not;
- norms before the branches, after the sums, on both sides of them, or one for both at once; with
  or without vectors; norms on heads;
- positions learned, turned (all of a head or a part), relative as DeBERTa's, ALiBi's, or none.

They are told by their modules, not by name, and by counts: the closed forms must give every
layer's parameters, the whole model's, and those of a thin layer. So layers with a mixture of
experts, a state space or a convolution are not read, nor are two stacks unless the family has a
file in `petl_bench/backbones/` (T5, BART).

Default configurations with two layers where that goes, batch 2, 64 tokens, each asked for by its
config.json ({versions}).
Written by `python benchmarks/backbone_types.py`, which goes on where it was stopped; its answers
are in [backbones.jsonl](backbones.jsonl). `types` is how many transformers have, `asked` how many
of them were run.

| head | types | asked | {methods} |
|---|---:|---:|---:|---:|---:|
{rows}

LST ran on {like}.

What depends on values, where there are none:

- A question (`if mask.all()`) is answered "no", a mask chooses everything, LayerDrop is off.
- A mixture of experts runs as one product of grouped rows, transformers' default: bytes and FLOPs
  are the same however the router shares tokens out. Sharing experts out among GPUs is not in it.
- `lora` without `targets` trains the projections of queries and values. Where one projection makes
  queries, keys and values (GPT-2, Falcon, BLOOM, Phi-3, GPT-NeoX) it is that one; where there is no
  attention (Mamba), all but outputs.

## What did not run

{kinds}

| type | head | methods | kind | what was said |
|---|---|---|---|---|
{reasons}
"""
METHODS = ("full", "lora", "lst")
LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "num_encoder_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
    "n_layer",
    "n_layers",
)
FEW = 2
# Of a published checkpoint, where transformers' default configuration is none that works.
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "dbrx": {"attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500_000.0}},
    "deepseek_v2": {
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": None,
        "moe_intermediate_size": 1408,
    },
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 8, "moe_topk": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": FEW},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "num_hidden_layers": FEW,
    },
    "reformer": {"axial_pos_shape": [8, 8]},  # of sequences of 64
    "xmod": {"default_language": "en_XX"},
}
WORKLOAD: Mapping[str, list[Any]] = {"batch_size": [2], "source_length_tokens": [64]}
HEADS = {
    "language model": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "encoder-decoder": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "classifier": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}
KINDS = {  # of failures: in whose words each is told, and what it means
    "configuration": (
        r"can be built of it|no default configuration|NoneType|must be",
        "transformers' default for the type is none that runs: only its checkpoints' own are",
    ),
    "library": (
        r"requires the \w+ library",
        "a part of the model is another library's, which is not installed here",
    ),
    "input": (
        r"match target batch_size|is invalid for input of size|language|image|audio",
        "the model wants more than text, or makes another number of predictions than tokens",
    ),
    "values": (
        r"without data|positive values|meta tensor",
        "the step goes by what tensors hold, which tensors without data do not tell",
    ),
    "head": (
        r"no module classifier or score",
        "the head has a name by which peft does not find what is new with the task",
    ),
    "reach": (
        r"does not require grad",
        "the projections so named are of a part that text does not reach: name others in `targets`",
    ),
    "peft": (r"lora\.|peft", "peft refuses it"),
    "time": (r"more than \d+ s", "its step takes too long to follow, operator by operator"),
}
OTHER = "other"
LIMIT_S = 60  # of processor time, for all methods of one architecture with one head
CARD = cards.find(cards.DEFAULT_CARD)


def config_of(kind: str, head: str) -> dict[str, Any]:
    """As a checkpoint's config.json would have it; few layers where that goes."""
    fields = dict(FIELDS.get(kind, {}))
    default = transformers.AutoConfig.for_model(kind, **fields).to_dict()
    few = {name: FEW for name in LAYERS if isinstance(default.get(name), int)}
    named = HEADS[head][kind]
    architecture = named if isinstance(named, str) else named[0]
    changes = fields | few if builds(kind, architecture, fields | few) else fields
    config = transformers.AutoConfig.for_model(kind, **changes)
    config.architectures = [architecture]
    return json.loads(config.to_json_string())


def builds(kind: str, architecture: str, changes: dict[str, Any]) -> bool:
    try:
        config = transformers.AutoConfig.for_model(kind, **changes)
        with torch.device("meta"):
            getattr(transformers, architecture)(config)
    except Exception:  # noqa: BLE001 - architectures refuse in ways of their own
        return False
    return True


def simulated(kind: str, head: str) -> dict[str, str]:
    """By method: "ok", or why not."""
    try:
        config = config_of(kind, head)
    except Exception as error:  # noqa: BLE001 - as above
        return dict.fromkeys(METHODS, f"transformers has no default configuration: {error}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{kind}.json"
        path.write_text(json.dumps(config))
        try:
            plan = Suite(
                methods=list(METHODS), backbone={"name": [str(path)]}, workload=WORKLOAD
            ).plan()
        except UsageError as error:
            return dict.fromkeys(METHODS, str(error).replace(f"{path}: ", ""))
    found = {}
    environment = simulated_environment(CARD)
    for cell in plan:
        record = run_task(
            Task(case=cell.case, label=cell.label), Origin.SIMULATED, CARD, environment
        )
        found[cell.label] = "ok" if record.status is Status.OK else str(record.reason)
    return found


def in_a_process(kind: str, head: str) -> dict[str, str]:
    """`simulated(kind, head)` of a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + LIMIT_S, int(used) + LIMIT_S))
        if "PETL_BENCH_DEBUG" not in os.environ:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.dup2(2, 1)
        warnings.simplefilter("ignore")
        try:
            answer = simulated(kind, head)
        except BaseException as error:  # noqa: BLE001 - told, as any other failure
            traceback.print_exc()
            answer = dict.fromkeys(METHODS, f"a defect of ours: {type(error).__name__}: {error}")
        with os.fdopen(writing, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else dict.fromkeys(METHODS, f"more than {LIMIT_S} s")


def page(found: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    """What ran, by head and method; and what did not, with the reason."""
    rows, reasons = [], []
    counted: dict[str, set[tuple[str, str]]] = {}
    for head, mapping in HEADS.items():
        of_head = {kind: answer for (kind, named), answer in found.items() if named == head}
        counts = [sum(a.get(method) == "ok" for a in of_head.values()) for method in METHODS]
        rows.append(
            f"| {head} | {len(mapping)} | {len(of_head)} | {' | '.join(map(str, counts))} |"
        )
        for kind, answer in sorted(of_head.items()):
            for reason, methods in by_reason(answer).items():
                sort = sort_of(reason)
                counted.setdefault(sort, set()).add((kind, head))
                reasons.append(
                    f"| `{kind}` | {head} | {', '.join(methods)} | {sort} | {_told(reason)} |"
                )
    like = sorted({kind for (kind, _), answer in found.items() if answer.get("lst") == "ok"})
    return PAGE_TEXT.format(
        methods=" | ".join(METHODS),
        rows="\n".join(rows),
        like=", ".join(f"`{kind}`" for kind in like),
        reasons="\n".join(reasons),
        kinds="\n".join(
            f"- {sort} ({len(counted[sort])}): {meaning}."
            for sort, (_, meaning) in (KINDS | {OTHER: ("", "as told")}).items()
            if sort in counted
        ),
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"peft {peft.__version__}",
    )


def by_reason(answer: Mapping[str, str]) -> dict[str, list[str]]:
    """Methods that did not run, by why; that `lst` knows no layers here is no news."""
    found: dict[str, list[str]] = {}
    for method, reason in answer.items():
        if reason != "ok" and "needs to know the layers" not in reason:
            found.setdefault(reason, []).append(method)
    return found


def sort_of(reason: str) -> str:
    """The kind of a failure."""
    return next((sort for sort, (said, _) in KINDS.items() if re.search(said, reason)), OTHER)


def _told(reason: str) -> str:
    return " ".join(reason.split())[:200].replace("|", "\\|")


def cells() -> Iterator[tuple[str, str]]:
    for head, mapping in HEADS.items():
        yield from ((kind, head) for kind in sorted(mapping))


def answers() -> dict[tuple[str, str], dict[str, str]]:
    """What is known; a later line takes the place of an earlier one."""
    lines = ANSWERS.read_text("utf-8").splitlines() if ANSWERS.exists() else []
    found = map(json.loads, lines)
    return {(kind, head): reasons for kind, head, reasons in found}


def main() -> None:
    again = sys.argv[1:]
    known = answers()
    gc.freeze()  # the collections of children pass over what they were born with
    for kind, head in cells():
        if kind in again or (not again and (kind, head) not in known):
            found = in_a_process(kind, head)
            with ANSWERS.open("a", encoding="utf-8") as file:
                file.write(json.dumps([kind, head, found]) + "\n")
            print(kind, head, found, flush=True)
    known = answers()
    ordered = [[*cell, known[cell]] for cell in cells() if cell in known]
    ANSWERS.write_text("".join(f"{json.dumps(line)}\n" for line in ordered), "utf-8")
    PAGE.write_text(page(known), encoding="utf-8")


if __name__ == "__main__":
    main()
