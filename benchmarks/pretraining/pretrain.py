"""Pre-train a small T5 by span corruption on a bundle: pretrain.py BUNDLE FOLDER NAME.

    FOLDER/NAME/              the weights, as `petl-bench train --backbone` takes them
    FOLDER/curves/NAME.jsonl  its losses on the way
    FOLDER/curves/NAME.json   what was trained, on what, how long; written last

With --ladder a ladder is pre-trained with it, through which the loss then comes, and lies in
FOLDER/NAME/ladder: `lst[initialise=reserved]` starts from it. Whatever stops it, the same command
goes on from FOLDER/NAME.checkpoint, a minute behind at most.

Objective: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4, with the paper's span lengths of
section 3.3.4, packed. Optimizer: Adafactor, as there; its rate rises, then falls to zero.

Legend: B batch, S source tokens, T tokens of the corpus.
"""

import argparse
import itertools
import json
import math
import os
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from petl_bench.methods.lst import SpanCorruption, attach_lst, joint_training, save_reserved
from torch.optim import Adafactor
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from petl_bench.environment import measured_environment, processor_environment
from petl_bench.tasks.quiet import quiet

SHAPES: dict[str, dict[str, int]] = {
    # 31 million parameters with a vocabulary of 16,128.
    "mini": {"d_model": 384, "d_kv": 64, "d_ff": 1536, "num_layers": 6, "num_heads": 6},
    # For a processor: 1.5 million with a vocabulary of 4,096.
    "toy": {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 4, "num_heads": 4},
}
WARMUP = 0.02  # of the whole, in which the rate rises
LINE, LOOK = 20, 200  # steps between two lines of the curve, and between two validations
VALIDATION_BATCHES = 4
CHECKPOINT_S = 60.0
FIRST_SENTINEL = "<extra_id_0>"
ROUND = 128  # the vocabulary is rounded up to a multiple of it


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is pre-trained; `steps`, or `minutes` of training, end it."""

    shape: str
    ladder: bool
    minutes: float | None = None
    steps: int | None = None
    source_length: int = 512
    batch_tokens: int = 65_536  # of the sources
    learning_rate: float = 1e-2  # Adafactor's, relative to a weight's size
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """B."""
        return max(self.batch_tokens // self.source_length, 1)


class Spans(Dataset[dict[str, torch.Tensor]]):
    """The batches of tokens [T] by number: the same number gives the same batch, on any machine.

    Each time through the corpus it is cut at other places, and the parts are shuffled anew.

    Raises:
        ValueError: the tokens are fewer than one example has.
    """

    def __init__(self, tokens: np.ndarray, recipe: Recipe, first_sentinel: int, seed: int) -> None:
        self._tokens, self._recipe, self._seed = tokens, recipe, seed
        self._collate = SpanCorruption(first_sentinel)
        self._length = self._collate.fitting(recipe.source_length)
        self._in_epoch = len(tokens) // self._length - 1  # one less: the first cut is anywhere
        if self._in_epoch < 1:
            raise ValueError(f"{len(tokens)} tokens are too few for examples of {self._length}")
        self._epoch = (-1, np.zeros(0, np.int64))

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """The batch: `input_ids` and `attention_mask` [B, S], `labels`."""
        size = self._recipe.batch_size
        (seed,) = np.random.SeedSequence([self._seed, number]).generate_state(1, np.uint64)
        self._collate.generator.manual_seed(int(seed))
        starts = [self._start(place) for place in range(number * size, (number + 1) * size)]
        cut = [self._tokens[start : start + self._length].tolist() for start in starts]
        return self._collate([{"input_ids": tokens} for tokens in cut])

    def _start(self, place: int) -> int:
        epoch, within = divmod(place, self._in_epoch)
        if epoch != self._epoch[0]:
            rng = np.random.default_rng([self._seed, epoch])
            order = rng.permutation(self._in_epoch) * self._length + rng.integers(self._length)
            self._epoch = (epoch, order)
        return int(self._epoch[1][within])


class Pretraining:
    """A model on its way: everything that a checkpoint holds, and a step."""

    def __init__(self, recipe: Recipe, tokenizer: Any, device: torch.device) -> None:
        self.recipe, self.tokenizer, self.device = recipe, tokenizer, device
        torch.manual_seed(recipe.seed)
        self.model: Any = T5ForConditionalGeneration(_config(recipe, tokenizer))
        if recipe.ladder:
            attach_lst(self.model)  # as `lst` is by default, so that it fits
        self.model.to(device).train()
        self.step, self.elapsed_s = 0, 0.0
        self.window: list[torch.Tensor] = []  # losses since the last line of the curve
        with self.training():
            self.optimizer = Adafactor(self.model.parameters(), lr=recipe.learning_rate)

    def training(self) -> AbstractContextManager[None]:
        """Inside, all weights train."""
        return joint_training(self.model) if self.recipe.ladder else nullcontext()

    @property
    def progress(self) -> float:
        """From 0 to 1, where it ends."""
        recipe = self.recipe
        if recipe.steps is not None:
            return self.step / recipe.steps
        assert recipe.minutes is not None
        return self.elapsed_s / (60 * recipe.minutes)

    @property
    def learning_rate(self) -> float:
        """Up in a straight line, and down to zero in another."""
        done = min(self.progress, 1.0)
        up = (done + 1e-3) / WARMUP  # not zero at the first step
        return self.recipe.learning_rate * min(up, (1 - done) / (1 - WARMUP))

    def advance(self, batch: dict[str, torch.Tensor]) -> None:
        """One step; its loss joins the window, still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        loss = self.loss(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.window.append(loss.detach())

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy of a batch's labels, []; products in bf16 on a GPU."""
        on_gpu = self.device.type == "cuda"
        moved = {name: each.to(self.device, non_blocking=True) for name, each in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            loss: torch.Tensor = self.model(**moved)["loss"]
        return loss

    def closed_window(self) -> float:
        """The mean of the losses since the last time.

        Raises:
            ValueError: it is not finite.
        """
        mean = fmean(float(loss) for loss in self.window)
        self.window = []
        if not math.isfinite(mean):
            raise ValueError(f"the loss is {mean} at step {self.step}")
        return mean

    @torch.no_grad()
    def validation_loss(self, batches: Spans) -> float:
        """Of the same few batches each time."""
        self.model.eval()
        mean = fmean(self.loss(batches[number]).item() for number in range(VALIDATION_BATCHES))
        self.model.train()
        return mean

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "window": [float(loss) for loss in self.window],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all(),
        }
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is of another recipe.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} is of another recipe: delete it, or ask for the same")
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.window = [torch.tensor(loss) for loss in state["window"]]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])


class Stop:
    """True once Ctrl-C or a polite kill has come: a step is never left half done."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def __bool__(self) -> bool:
        return self._asked

    def _ask(self, *_: object) -> None:
        self._asked = True


def pretrain(bundle: Path, folder: Path, name: str, recipe: Recipe, stop: Stop | None) -> bool:
    """Pre-train `name` in `folder`, or go on with it; False: stopped before the end.

    Raises:
        ValueError: what is there is of another recipe, or the loss is not finite.
        OSError: no bundle, or a folder that cannot be written.
    """
    summary, curve = (folder / "curves" / f"{name}.{end}" for end in ("json", "jsonl"))
    if summary.is_file():
        if json.loads(summary.read_text(encoding="utf-8"))["recipe"] != asdict(recipe):
            raise ValueError(f"{summary} is of another recipe: delete it, or ask for the same")
        return True
    tokenizer = AutoTokenizer.from_pretrained(bundle / "tokenizer")
    first_sentinel = tokenizer.convert_tokens_to_ids(FIRST_SENTINEL)
    with np.load(bundle / "tokens.npz") as tokens:
        train = Spans(tokens["train"], recipe, first_sentinel, recipe.seed)
        validation = Spans(tokens["validation"], recipe, first_sentinel, recipe.seed)
    on_gpu = torch.cuda.is_available()
    run = Pretraining(recipe, tokenizer, torch.device("cuda" if on_gpu else "cpu"))
    curve.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.checkpoint"
    if checkpoint.is_file():
        run.load(checkpoint)
    lines = _lines_until(curve, run.step)
    loader = DataLoader(
        train,
        batch_size=None,
        sampler=itertools.count(run.step),
        num_workers=min(4, (os.cpu_count() or 1) - 1) if on_gpu else 0,
        pin_memory=on_gpu,
        generator=torch.Generator(),  # else it draws from the one that dropout draws from
    )
    begin, saved = time.monotonic() - run.elapsed_s, time.monotonic()
    with run.training(), curve.open("w", encoding="utf-8", buffering=1) as file:
        file.writelines(lines)
        for batch in loader:
            run.advance(batch)
            run.elapsed_s = time.monotonic() - begin
            ends = run.progress >= 1
            if run.step % LINE == 0 or ends:
                line = {"step": run.step, "train_loss": run.closed_window()}
                if run.step % LOOK == 0 or ends:
                    line["validation_loss"] = run.validation_loss(validation)
                line["elapsed_s"] = round(run.elapsed_s, 1)
                file.write(json.dumps(line) + "\n")
            if ends:
                break
            stopping = bool(stop)
            if stopping or time.monotonic() - saved > CHECKPOINT_S:
                run.save(checkpoint)
                saved = time.monotonic()
            if stopping:
                return False
    _write(run, folder / name)
    about = json.loads((bundle / "corpus.json").read_text(encoding="utf-8"))
    text = json.dumps(_summary(run, line, about), indent=2) + "\n"
    summary.write_text(text, encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    return True


def _lines_until(curve: Path, step: int) -> list[str]:
    """Of an earlier curve: what came after the checkpoint is trained again."""
    if not curve.is_file():
        return []
    lines = curve.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("}\n")]
    return [line for line in whole if json.loads(line)["step"] <= step]


def _write(run: Pretraining, folder: Path) -> None:
    with quiet():
        if run.recipe.ladder:
            save_reserved(run.model, folder)
        else:
            run.model.save_pretrained(folder)
    run.tokenizer.save_pretrained(folder)


def _summary(run: Pretraining, last: dict[str, Any], corpus: dict[str, Any]) -> dict[str, Any]:
    ladder = run.model.ladders.parameters() if run.recipe.ladder else ()
    in_ladder = sum(parameter.numel() for parameter in ladder)
    on_gpu = run.device.type == "cuda"
    environment = measured_environment() if on_gpu else processor_environment()
    return {
        "recipe": asdict(run.recipe),
        "shape": SHAPES[run.recipe.shape] | {"vocab_size": run.model.config.vocab_size},
        "parameters": sum(p.numel() for p in run.model.parameters()) - in_ladder,
        "ladder_parameters": in_ladder,
        **last,
        "source_tokens": run.step * run.recipe.batch_size * run.recipe.source_length,
        "corpus": corpus,
        "environment": environment.model_dump(mode="json"),
    }


def _config(recipe: Recipe, tokenizer: Any) -> T5Config:
    return T5Config(
        **SHAPES[recipe.shape],
        vocab_size=-(-len(tokenizer) // ROUND) * ROUND,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )


def main() -> int:
    options = _options()
    recipe = Recipe(
        shape=options.shape,
        ladder=options.ladder,
        minutes=None if options.steps else options.minutes,
        steps=options.steps,
        source_length=options.source_length,
        batch_tokens=options.batch_tokens,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    try:
        whole = pretrain(options.bundle, options.folder, options.name, recipe, Stop())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if whole else 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="as bundle.py makes it")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--ladder", action="store_true", help="with a ladder that stays")
    parser.add_argument("--shape", choices=SHAPES, default="mini", help="(%(default)s)")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training (%(default)s)")
    parser.add_argument("--steps", type=int, help="so many instead")
    parser.add_argument("--source-length", type=int, default=Recipe.source_length)
    parser.add_argument("--batch-tokens", type=int, default=Recipe.batch_tokens)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
