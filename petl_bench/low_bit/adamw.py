"""AdamW whose two moments have 8 bits an element.

bitsandbytes on a CUDA device; elsewhere a stand-in that keeps states of the same sizes and does
not train. Source: Dettmers et al. 2022, arXiv:2110.02861; sizes as in bitsandbytes, optim/
optimizer.py (Optimizer2State.init_state): blocks of 256 elements with an fp32 maximum each, and a
pair of maps of 256 fp32 values for all parameters; those of fewer than 4,096 elements keep fp32
moments. The kernel updates in place and borrows nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

BLOCK = 256
SMALLEST = 4096  # elements; min_8bit_size
MAP = 256  # values that 8 bits stand for


def adamw_8bit(parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """`bitsandbytes.optim.AdamW8bit`, or what stands for it where there is no CUDA device.

    Raises:
        ValueError: the parameters are on a CUDA device and bitsandbytes is not installed.
    """
    if not parameters[0].is_cuda:
        return SizedAdamW8bit(parameters, lr)
    try:
        import bitsandbytes  # noqa: PLC0415 - only where it measures
    except ImportError:
        raise ValueError(
            "optimizer: adamw_8bit is measured with bitsandbytes: install it"
        ) from None
    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parameters, lr=lr)
    return made


class SizedAdamW8bit(torch.optim.Optimizer):
    """The states of AdamW8bit, by size; a step changes nothing but these."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self._maps: tuple[torch.Tensor, ...] = ()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make the states of parameters that have a gradient for the first time."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self._states(parameter)

    def _states(self, parameter: torch.Tensor) -> dict[str, Any]:
        if parameter.numel() < SMALLEST:
            moments = (torch.zeros_like(parameter, dtype=torch.float32) for _ in range(2))
            return dict(zip(("state1", "state2"), moments, strict=True))
        if not self._maps:
            self._maps = tuple(parameter.new_zeros(MAP, dtype=torch.float32) for _ in range(2))
        states: dict[str, Any] = {}
        for number, quantiles in enumerate(self._maps, start=1):
            states[f"state{number}"] = torch.zeros_like(parameter, dtype=torch.uint8)
            states[f"qmap{number}"] = quantiles
            blocks = -(-parameter.numel() // BLOCK)
            states[f"absmax{number}"] = parameter.new_zeros(blocks, dtype=torch.float32)
        return states
