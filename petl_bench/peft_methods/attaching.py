"""Peft's model around a backbone, also around one without data."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from petl_bench.backbones.ports import Ports
from petl_bench.deferral import deferred_values, without_data


def get_peft_model(model: nn.Module, ports: Ports, config: Any) -> nn.Module:
    """`peft.get_peft_model(model, config)` as users call it, on the model's device.

    They make adapters on the CPU, which peft moves to the layers that they belong to, and then
    move the whole model. A backbone without data gets adapters without data, of the dtypes that
    they have elsewhere: peft leaves out its casts where it meets a meta tensor.

    Raises:
        ValueError: peft's own, if the config does not go with the model; and for experts that are
            weighed by the source's tokens, where a decoder has others, which peft finds out late.
    """
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    device = ports.like.device
    simulated = device.type == "meta"
    if config.peft_type == "XLORA" and len(ports.dims.stacks) > 1:
        raise ValueError("experts are weighed by the source's tokens, and a decoder has others")
    with warnings.catch_warnings(), deferred_values() if simulated else torch.device("cpu"):
        warnings.simplefilter("ignore")  # they are about merging, and layers it was not tried on
        wrapped: nn.Module = peft.get_peft_model(model, config)
    if simulated:
        without_data(wrapped)
    else:
        wrapped.to(device)
    if config.peft_type not in _BEFORE_THE_SOURCE:
        return wrapped
    if ports.dims.fills_masks:
        hide = partial(_without_labels, config.num_virtual_tokens)
        wrapped.register_forward_pre_hook(hide, with_kwargs=True)
    elif ports.head_reads == "tokens":
        ports.stacks[-1].module.register_forward_hook(partial(_source, config.num_virtual_tokens))
    elif ports.task_head is not None:
        _Fold().hang(wrapped, model)
    return wrapped


def virtual_tokens(ports: Ports, count: int) -> dict[str, Any]:
    """What peft's configs of prompts say of the model, and of `count` vectors before its source.

    Sizes are given, since peft finds them only under their usual names; a prompt has no layers.
    """
    return {
        "task_type": ports.peft_task,
        "num_virtual_tokens": count,
        "num_transformer_submodules": 1,
        "token_dim": ports.dims.hidden_size,
        "num_attention_heads": ports.dims.num_heads,
        "num_layers": 1,
    }


_BEFORE_THE_SOURCE = {"PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING"}


def _without_labels(
    tokens: int, model: nn.Module, args: tuple[Any, ...], batch: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A label a token, [B, T], to one that does not count for each of the prompt's, too."""
    del model
    if batch.get("labels") is None:
        return args, batch
    return args, {**batch, "labels": F.pad(batch["labels"], (tokens, 0), value=-100)}


def _source(tokens: int, stack: nn.Module, args: Any, output: Any) -> Any:
    """The source's states, [B, T, D], without the prompt's: a head that reads all has no others."""
    del stack, args
    output.last_hidden_state = output.last_hidden_state[:, tokens:]
    return output


class _Fold:
    """Several texts an example, [B, C, T], as peft takes them, [B C, T], and back for the model.

    A batch of one text an example passes as it is.
    """

    def __init__(self) -> None:
        self.choices: int | None = None

    def hang(self, wrapped: nn.Module, model: nn.Module) -> None:
        """Around peft's work: before it, and between it and `model`."""
        wrapped.register_forward_pre_hook(self._fold, with_kwargs=True)
        model.register_forward_pre_hook(self._unfold, with_kwargs=True)

    def _fold(
        self, wrapped: nn.Module, args: tuple[Any, ...], batch: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        del wrapped
        ids = batch.get("input_ids")
        self.choices = ids.shape[1] if ids is not None and ids.dim() == _FOLDED else None
        if self.choices is None:
            return args, batch
        tensors = {k: v for k, v in batch.items() if isinstance(v, torch.Tensor)}
        folded = {k: v.flatten(0, 1) for k, v in tensors.items() if v.dim() == _FOLDED}
        return args, batch | folded

    def _unfold(
        self, model: nn.Module, args: tuple[Any, ...], batch: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        del model
        if self.choices is None:
            return args, batch
        tensors = {k: v for k, v in batch.items() if isinstance(v, torch.Tensor)}
        # Texts and their masks: a label an example, [B], is not folded.
        folded = {k: v for k, v in tensors.items() if v.dim() >= _FOLDED - 1}
        unfolded = {k: v.unflatten(0, (-1, self.choices)) for k, v in folded.items()}
        return args, batch | unfolded


_FOLDED = 3  # dimensions of texts, several an example
