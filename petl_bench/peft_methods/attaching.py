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
    if ports.dims.fills_masks and config.peft_type in _BEFORE_THE_SOURCE:
        hide = partial(_without_labels, config.num_virtual_tokens)
        wrapped.register_forward_pre_hook(hide, with_kwargs=True)
    return wrapped


_BEFORE_THE_SOURCE = {"PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING"}


def _without_labels(
    tokens: int, model: nn.Module, args: tuple[Any, ...], batch: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A label a token, [B, T], to one that does not count for each of the prompt's, too."""
    del model
    if batch.get("labels") is None:
        return args, batch
    return args, {**batch, "labels": F.pad(batch["labels"], (tokens, 0), value=-100)}
