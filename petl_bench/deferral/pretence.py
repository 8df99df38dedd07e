"""The CPU that is not there: tensors on the meta device that say they are on it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from petl_bench.deferral.meta import CPU, META
from petl_bench.deferral.recorder import Recorder


class PretendedCPU(TorchFunctionMode):
    """Says "cpu" where it is "meta", and takes "cpu" for it."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        if func is torch.Tensor.__setitem__ and self._recorder.notes(*args):
            return None
        options = dict(kwargs or {})
        if func in _GETTERS:
            return _GETTERS[func](func(*args))
        if func in _OF_DATA and not torch.is_tensor(args[0]):
            options.setdefault("device", CPU)
            return func(*args, **options)
        if func in _TO_NUMPY:
            return func(args[0].to(CPU), *args[1:], **options)
        if func is torch.Tensor.cpu:
            func, args = torch.Tensor.to, (args[0], CPU)
        if func is torch.Tensor.to:
            if not args[0].is_meta:
                return func(*args, **options)  # it is on the CPU
            args = (args[0], *map(_meant, args[1:]))
        if "device" in options:
            options["device"] = _meant(options["device"])
        return func(*args, **options)


def _meant(argument: Any) -> Any:
    is_cpu = isinstance(argument, (str, torch.device)) and torch.device(argument) == CPU
    return META if is_cpu else argument


_GETTERS: dict[Any, Callable[[Any], Any]] = {
    torch.Tensor.device.__get__: lambda device: CPU if device == META else device,
    torch.Tensor.is_meta.__get__: lambda _: False,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda _: True,  # type: ignore[attr-defined]
}
_OF_DATA = {torch.tensor, torch.as_tensor, torch.asarray}
_TO_NUMPY: set[Any] = {torch.Tensor.numpy, torch.Tensor.__array__}
