"""Peft's model around a backbone, also around one without data."""

import warnings
from typing import Any

import torch
from torch import nn

from petl_bench.backbones.ports import Ports
from petl_bench.deferral import deferred_values, without_data


def get_peft_model(model: nn.Module, ports: Ports, config: Any) -> nn.Module:
    """`peft.get_peft_model(model, config)` as users call it, on the model's device.

    They make adapters on the CPU, which peft moves to the layers that they belong to, and then
    move the whole model. A backbone without data gets adapters without data, of the dtypes that
    they have elsewhere: peft leaves out its casts where it meets a meta tensor.

    Raises:
        ValueError: peft's own, if the config does not go with the model.
    """
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    device = ports.like.device
    simulated = device.type == "meta"
    with warnings.catch_warnings(), deferred_values() if simulated else torch.device("cpu"):
        warnings.simplefilter("ignore")  # they are about merging, and layers it was not tried on
        wrapped: nn.Module = peft.get_peft_model(model, config)
    if simulated:
        without_data(wrapped)
    else:
        wrapped.to(device)
    return wrapped
