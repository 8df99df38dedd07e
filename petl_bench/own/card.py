"""Code written for a CUDA device, run where tensors without data stand for that device's."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import amp
from torch.overrides import TorchFunctionMode

META = torch.device("meta")
_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


class OnTheCard(TorchFunctionMode):
    """What goes to "cuda" is there already."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`func`, its device meant."""
        del types
        if func is torch.Tensor.cuda:
            return args[0].to(META)
        if func in _RECURRENT:
            warnings.warn(
                "petl-bench: cuDNN's recurrent kernels are not simulated; the bytes are of the"
                " operators that they are made of elsewhere",
                stacklevel=2,
            )
        options = dict(kwargs or {})
        if "device" in options:
            options["device"] = _meant(options["device"])
        elif func is torch.Tensor.to:
            args = tuple(map(_meant, args))
        return func(*args, **options)


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Inside, `torch.autocast("cuda")` is the simulation's own; inside of `autocast_on_meta`."""
    known = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        if torch.device(device_type).type != "cuda":
            return known(device_type, *args, **kwargs)
        if not args and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float16  # CUDA's default
        return known("meta", *args, **kwargs)

    with ExitStack() as patches:
        for owner in (torch, amp, amp.autocast_mode):
            patches.enter_context(patch.object(owner, "autocast", autocast))
        yield


def _meant(device: Any) -> Any:
    is_one = isinstance(device, torch.device) or (
        isinstance(device, str) and device.partition(":")[0] == "cuda"
    )
    return META if is_one and torch.device(device).type == "cuda" else device
