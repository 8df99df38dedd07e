"""Eras of PyTorch: how the framework of a paper's day kept its tensors.

A paper's memory figures belong to the versions it ran on. An era says where they differ from
today's in what stays allocated; the simulation then runs today's code with that day's habits.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from petl_bench.assembly import Trainee
from petl_bench.backbones.ports import ThinStack
from petl_bench.cards import CARDS, DEFAULT_CARD, Card
from petl_bench.eras import TORCH_1_10
from petl_bench.profilers.simulated.cuda_semantics import CudaKernels, foreach_by_default


@dataclass(frozen=True, kw_only=True)
class Era:
    """What one era does otherwise; the defaults are today's ways."""

    name: str | None = None
    # zero_grad filled gradients with zeros; since torch 2.0 it lets them go.
    keeps_gradients: bool = False
    # transformers 4 trained with the decoder's cache on: its keys and values outlived attention,
    # which works on contiguous copies, until the end of forward.
    keeps_keys_and_values: bool = False
    # softmax and log_softmax saved their input beside their result, for its dtype alone
    # (tools/autograd/derivatives.yaml of torch 1.10).
    keeps_softmax_input: bool = False
    # gelu had no tanh form (torch 1.12 added it); models wrote the formula out.
    fuses_tanh_gelu: bool = True
    # Optimizers and clipping loop over parameters; foreach became the default in torch 2.0.
    foreach: bool = True
    # Autograd reuses a gradient's memory when it sums (input_buffer.cpp, since torch 1.12).
    sums_in_place: bool = True
    # cuBLAS's workspace comes from the caching allocator (since torch 1.13).
    allocates_workspaces: bool = True

    def kernels(self, card: Card = CARDS[DEFAULT_CARD]) -> CudaKernels:
        """Functions sent to the operators that they were on `card`."""
        replaced: dict[Any, Callable[..., Any]] = {}
        if self.keeps_softmax_input:
            replaced |= {F.softmax: _softmax, F.cross_entropy: _cross_entropy}
        if not self.fuses_tanh_gelu:
            replaced |= {F.gelu: _gelu}
        return CudaKernels(card, replaced)

    def optimizer_defaults(self) -> AbstractContextManager[None]:
        """A context in which optimizers are built and stepped as they were by default."""
        return foreach_by_default() if self.foreach else nullcontext()

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Make `zero_grad` do what it did."""
        if self.keeps_gradients:
            vars(optimizer)["zero_grad"] = partial(optimizer.zero_grad, set_to_none=False)

    @contextmanager
    def forward_pass(self, trainee: Trainee) -> Iterator[None]:
        """Around one forward pass: hold what its returned output would have held."""
        held: list[torch.Tensor] = []
        cached = _cached_projections(trainee) if self.keeps_keys_and_values else ()
        handles = [
            projection.register_forward_hook(lambda _m, _a, output: held.append(output))
            for projection in cached
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


ERAS = {
    None: Era(),
    TORCH_1_10: Era(
        name=TORCH_1_10,
        keeps_gradients=True,
        keeps_keys_and_values=True,
        keeps_softmax_input=True,
        fuses_tanh_gelu=False,
        foreach=False,
        sums_in_place=False,
        allocates_workspaces=False,
    ),
}
"""Eras by name; None is today."""


def _cached_projections(trainee: Trainee) -> Iterator[nn.Linear]:
    """Key and value projections of every stack that generates, side networks' included."""
    for stack in trainee.ports.stacks if trainee.ports else ():
        yield from stack.cached
    for module in trainee.model.modules():
        if isinstance(module, ThinStack):
            yield from module.cached


class _KeepingSoftmax(torch.autograd.Function):
    """softmax or log_softmax that saves its input, too."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, log: bool) -> torch.Tensor:  # noqa: FBT001
        operator = torch._log_softmax if log else torch._softmax
        result = operator(x, dim, half_to_float=False)
        ctx.save_for_backward(x, result)
        ctx.dim, ctx.log = dim, log
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, result = ctx.saved_tensors
        operator = torch._log_softmax_backward_data if ctx.log else torch._softmax_backward_data
        return operator(grads[0], result, ctx.dim, x.dtype), None, None


def _softmax(
    x: torch.Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> torch.Tensor:
    del _stacklevel
    converted = x if dtype is None else x.to(dtype)
    result: torch.Tensor = _KeepingSoftmax.apply(converted, dim, False)  # type: ignore[no-untyped-call]
    return result


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
    if options.pop("label_smoothing", 0.0):
        raise NotImplementedError("label smoothing is not simulated for this era")
    log_probabilities = _KeepingSoftmax.apply(logits, 1, True)  # type: ignore[no-untyped-call]
    return F.nll_loss(log_probabilities, target, **options)


def _gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    """Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2, as models of that day spelled it."""
    if approximate != "tanh":
        return F.gelu(x)
    inner = (2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner))
