"""What a frozen backbone computes, kept on disk across epochs: later ones run no backbone.

    with cached_activations(model, "activations"):
        trainer.train()

A batch is the unit: a file holds what the ladder reads of one batch, so later epochs must make the
same batches, in any order. Without dropout a frozen backbone says the same of the same batch, and
the ladder, its dropout included, computes bit by bit what it would have beside the backbone.
Legend: B batch, T tokens, D hidden size.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import ports_of
from petl_bench.backbones.ports import Stack

from .checkpoint import BackboneIdentity
from .ladder import Ladder
from .ladders import Ladders
from .recording import Recording, Replay, Store, checksum, raw, read

# What a training step does not give, and what a ladder's file does not answer.
_OTHER_INPUTS = ("encoder_outputs", "past_key_values", "inputs_embeds", "decoder_inputs_embeds")
_OTHER_OUTPUTS = ("output_hidden_states", "output_attentions")


@dataclass
class CacheUse:
    """What became of the training passes so far."""

    hits: int = 0  # ran no backbone
    misses: int = 0  # ran it and wrote a file
    damaged: int = 0  # of the misses: a file was there, but not whole
    written_bytes: int = 0


@contextmanager
def cached_activations(model: Any, folder: str | Path, store: Store = "full") -> Iterator[CacheUse]:
    """Inside, a batch that the active ladder has trained on before does not run the backbone.

    The first time, what the ladder reads is written to `folder`: for each stack its embeddings and
    its kept layers' outputs, B T D elements each, and the masks. With `store="bf16"` these are
    rounded, in the first epoch too, so that all epochs compute the same. Files belong to a
    backbone, a batch, the kept layers and the kind of side block; ladders that share these share
    them. A file that is not whole is made anew: it is a copy of what can be computed.

    Only training passes on token ids are cached, those in training mode with gradients on.
    Evaluation, generation, passes that ask for a key-value cache, hidden states or attentions, and
    those of no ladder are left alone. A cached pass has no `encoder_last_hidden_state`: it reads as
    not-a-number.

    Raises:
        ValueError: no ladder is active, its backbone keeps dropout on or trains or has no weights,
            the model has an input, such as images, whose embedding trains; or another `store`.
    """
    session = _Session(model, Path(folder), store)
    session.check()
    session.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        for handle in (
            model.register_forward_pre_hook(session.begin, with_kwargs=True),
            model.register_forward_hook(session.end, always_call=True),
        ):
            undo.callback(handle.remove)
        for stack in session.stacks:
            for part in stack.outside:
                undo.enter_context(_replaced(part, partial(session.before, stack)))
            undo.enter_context(_replaced(stack.module, partial(session.run, stack)))
        yield session.use


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`forward(module's own, ...)` instead of the module's own; its hooks stay."""
    own, shadow = module.forward, vars(module).get("forward")
    vars(module)["forward"] = partial(forward, own)
    try:
        yield
    finally:
        if shadow is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = shadow


class _Session:
    """One use of a folder beside one model: a pass is recorded, replayed, or left alone."""

    def __init__(self, model: Any, folder: Path, store: Store) -> None:
        if store not in {"full", "bf16"}:
            raise ValueError(f"cached activations: store is full or bf16 (got {store!r})")
        if not hasattr(model, "ladders"):
            raise ValueError("cached activations feed a ladder: attach one first")
        ports = ports_of(model)
        if ports.like.is_meta:
            raise ValueError("cached activations: the model has no weights")
        if ports.extra_input is not None:
            raise ValueError("cached activations: the embedding of an extra input trains")
        self.folder, self.store, self.use = folder, store, CacheUse()
        self.stacks, self._like = ports.stacks, ports.like
        self._ladders: Ladders = model.ladders
        self._names = tuple(inspect.signature(type(model).forward).parameters)[1:]
        self._config = model.config
        self._backbone = _fingerprint(model, ports.stacks)
        self._batch: str | None = None  # of this pass; None leaves it alone
        self._path, self._key = folder, ""
        self._pass: Recording | Replay | None = None
        self._stacks_run = 0

    def check(self) -> Ladder:
        """The active ladder, if its backbone says the same each time.

        Raises:
            ValueError: as `cached_activations`.
        """
        ladder = self._ladders.current
        if ladder is None:
            raise ValueError("no ladder is active: activate the one to train")
        if ladder.config.backbone_dropout:
            raise ValueError("cached activations need a ladder with backbone_dropout=false")
        parts = [part for stack in self.stacks for part in (*stack.outside, stack.module)]
        if any(p.requires_grad for part in parts for p in part.parameters()):
            raise ValueError("cached activations: the backbone trains")
        return ladder

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a pass: which batch it is, if it is one to cache."""
        self._forget()
        given = dict(zip(self._names, args, strict=False)) | kwargs
        alone = (
            self._ladders.current is None
            or not (model.training and torch.is_grad_enabled())
            or given.get("use_cache")
            or any(given.get(name) is not None for name in _OTHER_INPUTS)
            or any(self._asked(given, name) for name in _OTHER_OUTPUTS)
        )
        if alone:
            return
        self.check()
        digest = hashlib.sha256()
        for name, value in sorted(given.items()):
            # Scalars are not of the batch: Trainer's num_items_in_batch is of the whole step.
            if isinstance(value, torch.Tensor) and value.dim():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
                digest.update(raw(value))
        self._batch = digest.hexdigest()

    def _asked(self, given: dict[str, Any], name: str) -> bool:
        asked = given.get(name)
        return bool(getattr(self._config, name, False) if asked is None else asked)

    def before(self, stack: Stack, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What comes before a stack: nothing, if the stack is not to run."""
        found = self._found()
        return found.unknown(stack.name) if isinstance(found, Replay) else forward(*args, **kwargs)

    def run(self, stack: Stack, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The stack, or its ladder's share of the file; the stack's hooks follow either way."""
        found = self._found()
        if isinstance(found, Replay):
            return self._feed(found, stack)
        output = forward(*args, **kwargs)
        if found is not None:
            self._stacks_run += 1
            ladder = self._ladders.current
            if stack is self.stacks[-1] and ladder is not None and ladder.config.merge:
                last_BTD = found.hidden("last", output[0])
                if isinstance(output, tuple):
                    return (last_BTD, *output[1:])
                output.last_hidden_state = last_BTD
        return output

    def end(self, model: nn.Module, args: Any, output: Any) -> None:
        """After a pass, a failed one too: a whole recording is written."""
        del model, args
        found, whole = self._pass, self._stacks_run == len(self.stacks)
        if isinstance(found, Recording) and whole and output is not None:
            self.use.written_bytes += found.write(self._path, self._key)
            self.use.misses += 1
        elif isinstance(found, Replay) and output is not None:
            self.use.hits += 1
        self._forget()

    def _forget(self) -> None:
        self._batch = self._pass = self._ladders.recording = None
        self._stacks_run = 0

    def _found(self) -> Recording | Replay | None:
        """The pass's file or a new recording; looked up by the first stack that is called.

        Only then is it known whether autocast is on: who prepares a model may switch it on inside.
        """
        if self._batch is None or self._pass is not None:
            return self._pass
        self._key = self._key_of(self._batch)
        self._path = self.folder / f"{self._key}.safetensors"
        if self._path.exists():
            self._pass = read(self._path, self._key, self._like.device)
            self.use.damaged += self._pass is None
        if self._pass is None:
            self._pass = self._ladders.recording = Recording(self.store)
        return self._pass

    def _key_of(self, batch: str) -> str:
        import transformers  # noqa: PLC0415 - imported already

        ladder, kind = self.check(), self._like.device.type
        autocast = torch.is_autocast_enabled(kind)
        about = {
            "format": 1,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "backbone": self._backbone,
            # Masks have the form that it asks for.
            "attention": getattr(self._config, "_attn_implementation", None),
            "autocast": str(torch.get_autocast_dtype(kind)) if autocast else None,
            "store": self.store,
            "kept": {stack.name: ladder.stack(stack.name).kept for stack in self.stacks},
            "blocks": ladder.config.blocks,
            "rungs": ladder.config.climbs,
            "last": ladder.config.merge,
            "batch": batch,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _feed(self, found: Replay, stack: Stack) -> Any:
        """The ladder's pass through one stack; returns what stands in for the stack's output."""
        from transformers.modeling_outputs import (  # noqa: PLC0415 - imported already
            BaseModelOutputWithPastAndCrossAttentions,
        )

        name, unknown_BTD = stack.name, found.unknown(stack.name)
        self._ladders.enter(name, found.hidden(f"{name}.embedding"))
        ladder = self._ladders.current
        assert ladder is not None
        for index in ladder.stack(name).kept:
            layer = f"{name}.{index}"
            hidden_BTD = found.hidden(layer) if layer in found else unknown_BTD
            self._ladders.climb(name, index, hidden_BTD, *found.arguments(layer))
        last = stack is self.stacks[-1] and "last" in found
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=found.hidden("last") if last else unknown_BTD
        )


def _fingerprint(model: Any, stacks: tuple[Stack, ...]) -> str:
    """Of all that decides what the layers compute: configuration, and every tensor's checksum.

    More than BackboneIdentity, since a backbone may differ in one layer or one token alone.
    """
    digest = hashlib.sha256(BackboneIdentity.of(model).model_dump_json().encode())
    digest.update(model.config.to_json_string(use_diff=False).encode())
    for stack in stacks:
        for part in (*stack.outside, stack.module):
            for name, tensor in part.state_dict().items():
                if isinstance(tensor, torch.Tensor):  # some modules have a state of another kind
                    about = (stack.name, name, tensor.dtype, tuple(tensor.shape), checksum(tensor))
                    digest.update(str(about).encode())
    return digest.hexdigest()
