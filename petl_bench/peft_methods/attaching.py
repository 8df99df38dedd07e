"""Peft's model around a backbone, also around one without data."""

import warnings
from typing import Any

import torch
import torch.fx.experimental._config
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
    with warnings.catch_warnings(), deferred_values() if simulated else torch.device("cpu"):
        warnings.simplefilter("ignore")  # they are about merging, and layers it was not tried on
        wrapped: nn.Module = peft.get_peft_model(model, config)
    if simulated:
        without_data(wrapped)
        wrapped.register_forward_pre_hook(lambda *_: _answer_for_values(True))
        wrapped.register_forward_hook(lambda *_: _answer_for_values(False), always_call=True)
    else:
        wrapped.to(device)
    return wrapped


def _answer_for_values(answer: bool) -> None:  # noqa: FBT001
    """Set torch to say, of what has no data, that random distributions are well-formed.

    And that a mask chooses everything: what a method indexes by a mask is as large as it can be.
    """
    Distribution.set_default_validate_args(__debug__ and not answer)
    torch.fx.experimental._config.meta_nonzero_assume_all_nonzero = answer  # noqa: SLF001
