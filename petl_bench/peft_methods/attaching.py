"""Peft's model around a backbone, also around one without data."""

from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

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
    with deferred_values() if simulated else torch.device("cpu"):
        wrapped: nn.Module = peft.get_peft_model(model, config)
    if simulated:
        without_data(wrapped)
        # They ask whether all values are good, and nothing that is asked here is so.
        wrapped.register_forward_pre_hook(lambda *_: _check_distributions(False))
        wrapped.register_forward_hook(lambda *_: _check_distributions(__debug__), always_call=True)
    else:
        wrapped.to(device)
    return wrapped


def _check_distributions(check: bool) -> None:  # noqa: FBT001
    Distribution.set_default_validate_args(check)
