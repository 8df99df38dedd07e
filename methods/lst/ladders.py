"""Ladders on a transformers model: they listen to its forward pass and speak in its place.

`attach_lst` freezes the model and puts a ladder into it as `model.ladders`. Hooks feed the ladder
while the library's own forward runs, and hand its result to the model's own head; so the model
keeps its class and everything that goes with it: loss, `generate`, Trainer, DDP.
The frozen backbone stores nothing for backward, since nothing in it needs a gradient; each rung
reads a layer's output the moment it appears.

Legend: B batch, T tokens, D hidden size, d side width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import ports_of
from petl_bench.backbones.ports import Ports
from petl_bench.method import freeze

from . import checkpoint
from .config import LstConfig
from .ladder import Ladder, parts_of
from .recording import Recording

SIDE_STATE = "ladder_state"
"""Key in an encoder's output under which its side state travels to the decoder: whatever
`generate` does to encoder outputs (expanding them for beams), it does to this one, too."""


class Ladders(nn.ModuleDict):
    """All ladders of one model, by name, and which of them listens."""

    def __init__(self, model: nn.Module, ports: Ports) -> None:
        super().__init__()
        self.active: str | None = None
        self.recording: Recording | None = None  # listens to what feeds the ladder
        # Known only now: afterwards the ladders must not hold the model that holds them.
        self._backbone = (
            None if next(model.parameters()).is_meta else checkpoint.BackboneIdentity.of(model)
        )
        self._encoder_BSd: torch.Tensor | None = None
        self._final_BTd: torch.Tensor | None = None
        # Bound methods in partials: a deep copy of the model gets hooks that are its own.
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)
        last, extra = ports.stacks[-1], ports.extra_input
        self._extra = extra
        if extra is not None:
            # Keeps what it made on itself: a bound hook would tie it to the ladders that hold it.
            extra.embedding.register_forward_hook(_keep)
        for stack in ports.stacks:
            for part in (stack.module, *stack.outside):
                part.register_forward_pre_hook(self._quieten)
            if extra is not None and extra.stack == stack.name:
                stack.module.register_forward_pre_hook(self._blindfold)
            if stack.embedding is not None:
                stack.embedding.register_forward_hook(partial(self._enter, stack.name))
            else:
                stack.layers[0].register_forward_pre_hook(
                    partial(self._enter_layer, stack.name), with_kwargs=True
                )
            for index, layer in enumerate(stack.layers):
                layer.register_forward_hook(
                    partial(self._climb, stack.name, index), with_kwargs=True
                )
            leave = self._leave if stack is last else self._pass_on
            stack.module.register_forward_hook(partial(leave, stack.name))
        for number, part in enumerate(parts_of(ports.task_head)):
            part.register_forward_hook(partial(self._score, number))

    def __getitem__(self, name: str) -> Ladder:
        ladder = super().__getitem__(name)
        assert isinstance(ladder, Ladder)
        return ladder

    def activate(self, name: str | None) -> None:
        """Let the ladder called `name` speak; None leaves the plain backbone.

        Only the active ladder trains.

        Raises:
            KeyError: no such ladder; the message names those there are.
        """
        if name is not None and name not in self:
            raise KeyError(f"no ladder {name!r}; here are: {', '.join(self)}")
        self.active = name
        for other, ladder in sorted(self.items(), key=lambda item: item[0] == name):
            ladder.requires_grad_(other == name)  # the active one last: they may share an input

    def remove(self, name: str) -> None:
        """Forget the ladder called `name`.

        Raises:
            KeyError: no such ladder.
        """
        if self.active == name:
            self.active = None
        del self[name]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The plain backbone inside, with the head it came with."""
        active, self.active = self.active, None
        try:
            yield
        finally:
            self.active = active

    def save(
        self, folder: str | Path, name: str, tensors: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Write the ladder called `name`; `tensors` are its own unless others are given.

        Raises:
            ValueError: the model had no weights when the ladder was attached.
        """
        if self._backbone is None:
            raise ValueError("a ladder beside a model without weights cannot be saved")
        ladder = self[name]
        checkpoint.write_folder(
            folder, name, ladder.config, self._backbone, tensors or ladder.state_dict()
        )

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,  # noqa: FBT001, FBT002 - as in transformers
        state_dict: dict[str, torch.Tensor] | None = None,
        **others: Any,
    ) -> None:
        """In place of the model's own: write the active ladder alone.

        `state_dict` is the whole model's, given by who gathered a sharded one.

        Raises:
            ValueError: no ladder is active.
        """
        del others  # transformers' options for models of many files
        if self.active is None:
            raise ValueError("no ladder is active: activate the one to save")
        if not is_main_process:
            return
        prefix = checkpoint.prefix_of(self.active)
        own = {
            key.removeprefix(prefix): tensor
            for key, tensor in (state_dict or {}).items()
            if key.startswith(prefix)
        }
        self.save(save_directory, self.active, own)

    @property
    def current(self) -> Ladder | None:
        """The active ladder."""
        return None if self.active is None else self[self.active]

    def _begin(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.current is None:
            return None
        self._forget()
        given = kwargs.get("encoder_outputs")
        if given is not None:
            if not isinstance(given, dict) or given.get(SIDE_STATE) is None:
                raise ValueError(
                    "encoder_outputs without a side state: make them with the active ladder, "
                    "by model.get_encoder()(...)"
                )
            self._encoder_BSd = given[SIDE_STATE]
        if model.training and self._generates(model) and kwargs.get("use_cache") is None:
            kwargs["use_cache"] = False  # nobody reads it, and it would outlive its layers
        return args, kwargs

    @staticmethod
    def _generates(model: nn.Module) -> bool:
        return bool(getattr(model, "can_generate", bool)())

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        del model, args, output
        self._forget()

    def _forget(self) -> None:
        self._encoder_BSd = self._final_BTd = None
        self._made()
        if self.current is not None:
            self.current.forget()

    def _quieten(self, module: nn.Module, args: Any) -> None:
        del args
        ladder = self.current
        if module.training and ladder is not None and not ladder.config.backbone_dropout:
            module.eval()  # until the next model.train()

    def _blindfold(self, module: nn.Module, args: Any) -> None:
        """Before a stack with an extra input: let its layers see what the ladder lets them."""
        del args
        assert self._extra is not None
        self._made()  # of a pass that no ladder listened to
        ladder = self.current
        alone = ladder is not None and ladder.config.extra_input == "side"
        self._extra.show(module, "whole" if ladder is None else "none" if alone else "detached")

    def _made(self) -> torch.Tensor | None:
        """What the extra input's embedding has made since it was last asked for, [B, X, D]."""
        return None if self._extra is None else vars(self._extra.embedding).pop(_MADE, None)

    def _enter(self, name: str, module: nn.Module, args: Any, embedding_BTD: torch.Tensor) -> None:
        del module, args
        if self.current is not None:
            if self.recording is not None:
                embedding_BTD = self.recording.hidden(f"{name}.embedding", embedding_BTD)
            self.enter(name, embedding_BTD)

    def _enter_layer(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Before the first layer, where no module returns what it is given."""
        self._enter(name, module, args, args[0] if args else kwargs["hidden_states"])

    def enter(self, name: str, embedding_BTD: torch.Tensor) -> None:
        """Start the active ladder's pass through the stack called `name`."""
        ladder = self.current
        assert ladder is not None
        # None while the first stack runs, its side state while the second one does.
        ladder.stack(name).enter(embedding_BTD, self._encoder_BSd, self._made())

    def _climb(  # noqa: PLR0917 - a hook's arguments, after the two it is bound to
        self,
        name: str,
        index: int,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        del module
        ladder = self.current
        if ladder is not None and index in ladder.stack(name).kept:
            hidden_BTD = output[0] if isinstance(output, tuple) else output
            if self.recording is not None:
                layer = f"{name}.{index}"
                if ladder.config.climbs:
                    hidden_BTD = self.recording.hidden(layer, hidden_BTD)
                args, kwargs = self.recording.arguments(layer, args, kwargs)
            self.climb(name, index, hidden_BTD, args, kwargs)

    def climb(
        self,
        name: str,
        index: int,
        hidden_BTD: torch.Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """One step of the active ladder, beside layer `index` of the stack called `name`."""
        ladder = self.current
        assert ladder is not None
        ladder.stack(name).climb(index, hidden_BTD, args, kwargs)

    def _pass_on(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """An encoder has run: its side state is what the decoder's side blocks attend to."""
        del module, args
        if self.current is not None:
            self._encoder_BSd = self.current.stack(name).leave()
            if isinstance(output, dict):
                output[SIDE_STATE] = self._encoder_BSd

    def _leave(self, name: str, module: nn.Module, args: Any, output: Any) -> Any:
        """The last stack has run: its head is to read the side network."""
        del module, args
        if self.current is None:
            return None
        self._final_BTd = self.current.stack(name).leave()
        finished_BTD = self.current.finished(self._final_BTd, output[0])
        if isinstance(output, tuple):
            return (finished_BTD, *output[1:])
        output.last_hidden_state = finished_BTD
        return output

    def _score(
        self, number: int, module: nn.Module, args: tuple[torch.Tensor, ...], output: Any
    ) -> Any:
        del module, output
        if self.current is None:
            return None
        assert self._final_BTd is not None
        return self.current.scores(number, self._final_BTd, *args)


_MADE = "made_BXD"


def _keep(module: nn.Module, args: Any, output: torch.Tensor) -> None:
    del args
    vars(module)[_MADE] = output


def checkpoint_blocks(model: nn.Module) -> None:
    """Side blocks run again in backward; the frozen backbone keeps nothing anyway."""
    for module in model.modules():
        if hasattr(module, "recomputed"):
            vars(module)["recomputed"] = True


def attach_lst(model: nn.Module, name: str = "default", **options: Any) -> nn.Module:
    """Put a ladder called `name` beside a transformers model; returns the same model.

    The backbone is frozen and the ladder active. `model.save_pretrained(folder)` then writes the
    ladder alone, `load_lst(model, folder)` brings it back. Attach again, under another name, for
    another ladder; `model.ladders.activate(name)` switches.

    Options are those of LstConfig, for example `reduction=8, keep="all"`.

    Raises:
        ValueError: an unknown option, or a backbone that the ladder does not fit.
    """
    return attach(model, ports_of(model), LstConfig(**options), name)


def attach(model: nn.Module, ports: Ports, config: LstConfig, name: str = "default") -> nn.Module:
    """As `attach_lst`, for ports that are open already."""
    ladders = getattr(model, "ladders", None)
    if ladders is None:
        freeze(model)
        ladders = Ladders(model, ports)
        model.ladders = ladders
        # Trainer's checkpoints call it: they hold the ladder alone.
        vars(model)["save_pretrained"] = ladders.save_pretrained
    if name in ladders:
        raise ValueError(f"lst: there is a ladder {name!r} already")
    if not name.isidentifier() or hasattr(ladders, name):
        raise ValueError(f"lst: a ladder cannot be called {name!r}; take an identifier")
    ladder = Ladder(ports, config)
    ladder.to(device=ports.like.device)
    for parameter in ladder.parameters():  # not buffers: rotary frequencies stay fp32
        parameter.data = parameter.data.to(ports.like.dtype)
    ladder.train(model.training)
    ladders[name] = ladder
    ladders.activate(name)
    return model
