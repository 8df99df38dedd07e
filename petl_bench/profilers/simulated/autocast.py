"""Autocast as CUDA does it, on tensors that have no data and so no autocast of their own.

Kernels that cast as CUDA's do are put under a dispatch key of autocast that no backend in use
has. So they stand where CUDA's stand, above autograd and below Python, and meet every operator
that C++ calls on the way, too (the log_softmax inside of cross_entropy).

Sources: the lists, aten/src/ATen/autocast_mode.h (installed with torch, and compared in the
tests); what is cast, and which casts are kept, autocast_mode.cpp, cached_cast. CUDA's extra of
binary_cross_entropy, an error, is left out.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import amp
from torch import library as operators
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten

DEVICE = "meta"
_KEY = "AutocastIPU"

# --- the lists: operators by overload, "" for the default one ------------------------------------

LOWER_PRECISION = """
_convolution.deprecated _convolution conv1d conv2d conv3d conv_tbc conv_transpose1d
conv_transpose2d.input conv_transpose3d.input convolution prelu addmm addmv addr matmul einsum mm
mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot _thnn_fused_lstm_cell
_thnn_fused_gru_cell lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
_scaled_dot_product_flash_attention scaled_dot_product_attention
"""

FP32 = """
acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar
pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm
frobenius_norm.dim nuclear_norm nuclear_norm.dim cosine_similarity poisson_nll_loss
cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss smooth_l1_loss
huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss
triplet_margin_loss multi_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm
logsumexp upsample_nearest1d _upsample_nearest_exact1d upsample_nearest2d
_upsample_nearest_exact2d upsample_nearest3d _upsample_nearest_exact3d upsample_linear1d
upsample_bilinear2d _upsample_bilinear2d_aa upsample_trilinear3d upsample_bicubic2d
_upsample_bicubic2d_aa
"""

FP32_BY_OPTION = """
prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm
linalg_matrix_norm.str_ord sum sum.dim_IntList
"""
# They have a dtype to say; it is fp32 unless the caller says another.

PROMOTE = """
addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add
"""

FP32_APPENDED = {
    "norm.Scalar": "norm.ScalarOpt_dtype",
    "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype",
}
"""They become the overload that has a dtype at its end."""


class _State:
    """What torch keeps a thread and a process: the dtype, the nesting, the kept casts."""

    dtype: torch.dtype | None = None  # None outside and where it is switched off
    nesting = 0
    casts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Autocast(AbstractContextManager["Autocast"]):
    """`torch.autocast` on meta tensors; outermost, it lets the kept casts go when it is left."""

    def __init__(self, dtype: torch.dtype, *, enabled: bool = True) -> None:
        _register()
        self._dtype = dtype if enabled else None

    def __enter__(self) -> Self:
        self._before = _State.dtype
        _switch(self._dtype)
        _State.nesting += 1
        return self

    def __exit__(self, *error: object) -> None:
        _State.nesting -= 1
        if not _State.nesting:
            _State.casts.clear()
        _switch(self._before)


def _switch(dtype: torch.dtype | None) -> None:
    _State.dtype = dtype
    torch._C._dispatch_tls_set_dispatch_key_excluded(_KEY, dtype is None)
    torch._C._dispatch_tls_set_dispatch_key_included(_KEY, dtype is not None)


@contextmanager
def autocast_on_meta() -> Iterator[None]:
    """Inside, `torch.autocast("meta", dtype)` and torch's questions about it are answered.

    Checkpointing asks, to recompute a layer as it ran; and transformers ask, who take meta for a
    device where nothing is to be switched off.
    """
    plain = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        if device_type != DEVICE:
            return plain(device_type, *args, **kwargs)
        dtype, enabled = (*args, None, None)[:2]
        dtype = kwargs.get("dtype") or dtype or torch.bfloat16
        enabled = kwargs.get("enabled", True if enabled is None else enabled)
        return Autocast(dtype, enabled=enabled)

    answers: dict[str, Callable[[], Any]] = {
        "is_autocast_enabled": lambda: _State.dtype is not None,
        "get_autocast_dtype": lambda: _State.dtype or torch.bfloat16,
    }
    with ExitStack() as patches:
        for owner in (torch, amp, amp.autocast_mode):
            patches.enter_context(patch.object(owner, "autocast", autocast))
        for name, answer in answers.items():
            patches.enter_context(
                patch.object(torch, name, _answering(getattr(torch, name), answer))
            )
        available = _answering(amp.is_autocast_available, lambda: True)
        patches.enter_context(patch.object(amp, "is_autocast_available", available))
        for module, maybe in _who_ask():
            patches.enter_context(
                patch.object(module, "maybe_autocast", partial(_maybe_autocast, maybe))
            )
        yield


def _answering(plain: Callable[..., Any], answer: Callable[[], Any]) -> Callable[..., Any]:
    def ask(device_type: str | None = None) -> Any:
        if device_type == DEVICE:
            return answer()
        return plain() if device_type is None else plain(device_type)

    return ask


def _who_ask() -> list[tuple[Any, Any]]:
    """Modules of transformers that have imported its `maybe_autocast`."""
    modules = [m for name, m in sys.modules.items() if name.startswith("transformers.")]
    return [(m, vars(m)["maybe_autocast"]) for m in modules if "maybe_autocast" in vars(m)]


def _maybe_autocast(plain: Callable[..., Any], device_type: str, *args: Any, **kwargs: Any) -> Any:
    """`transformers.utils.generic.maybe_autocast`, without its way out for meta."""
    if device_type != DEVICE:
        return plain(device_type, *args, **kwargs)
    enabled = kwargs.get("enabled", args[1] if len(args) > 1 else True)
    if _State.dtype is None and not enabled:
        return nullcontext()
    dtype = kwargs.get("dtype") or (args[0] if args else None) or torch.bfloat16
    return Autocast(dtype, enabled=enabled)


# --- what is cast --------------------------------------------------------------------------------


def as_one(operator: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`operator`, written in Python, as one of the lower-precision list: cast for, and only once.

    Outside of autocast it is called as it is.
    """
    return _as_one(None, operator, *args, **kwargs)


def as_one_in_fp32(operator: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """As `as_one`, of the fp32 list."""
    return _as_one(torch.float32, operator, *args, **kwargs)


def _as_one(to: torch.dtype | None, operator: Any, *args: Any, **kwargs: Any) -> Any:
    if _State.dtype is None:
        return operator(*args, **kwargs)
    return _inside(partial(_cast_first, to), operator, *args, **kwargs)


def _cast(to: torch.dtype, value: Any) -> Any:
    """cached_cast: floating tensors but doubles; casts of fp32 weights that train are kept."""
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(to, item) for item in value)
    if not _eligible(value) or value.dtype is to:
        return value
    keep = (
        to is _State.dtype
        and value.dtype is torch.float32
        and value.requires_grad
        and value.is_leaf
        and not value._is_view()
    )
    if not keep:
        return value.to(to)
    if value not in _State.casts:
        _State.casts[value] = value.to(to)
    return _State.casts[value]


def _eligible(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.is_meta
        and value.is_floating_point()
        and value.dtype is not torch.float64
    )


# --- kernels -------------------------------------------------------------------------------------


def _cast_first(to: torch.dtype | None, operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Cast everything to `to`, or to autocast's own dtype."""
    dtype = to or _State.dtype
    assert dtype is not None
    # The last argument first: so GCC, which builds torch, evaluates the arguments of a call.
    named = {name: _cast(dtype, kwargs[name]) for name in reversed(kwargs)}
    cast = [_cast(dtype, arg) for arg in reversed(args)]
    return operator(*reversed(cast), **named)


def _say_fp32(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Fill in the dtype where it is open; a softmax from fp16 needs no copy (SoftMax.cpp)."""
    names = [argument.name for argument in operator._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    if given.get("dtype") is None and _eligible(args[0]):
        fused = {aten.softmax.int: torch._softmax, aten.log_softmax.int: torch._log_softmax}
        if operator in fused and args[0].dtype is torch.float16:
            return fused[operator](args[0], given["dim"], half_to_float=True)
        given["dtype"] = torch.float32
    return operator(args[0], **{name: given[name] for name in given if name != names[0]})


def _append_fp32(target: Any, operator: Any, *args: Any, **kwargs: Any) -> Any:
    if not _eligible(args[0]):
        return operator(*args, **kwargs)
    return target(*args, **kwargs, dtype=torch.float32)


def _promote(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """The widest of the arguments: fp32 if there is one, else autocast's own."""
    flat: list[Any] = []
    for arg in (*args, *kwargs.values()):
        flat.extend(arg if isinstance(arg, (list, tuple)) else [arg])
    wide = any(_eligible(arg) and arg.dtype is torch.float32 for arg in flat)
    return _cast_first(torch.float32 if wide else None, operator, *args, **kwargs)


@cache
def _register() -> tuple[operators.Library, operators.Library]:
    """Put the kernels under the key, once; they are called only where autocast is on."""
    library, everything = operators.Library("aten", "IMPL"), operators.Library("_", "IMPL")
    everything.fallback(operators.fallthrough_kernel, _KEY)
    policies: list[tuple[str, Callable[..., Any]]] = [
        (LOWER_PRECISION, partial(_cast_first, None)),
        (FP32, partial(_cast_first, torch.float32)),
        (FP32_BY_OPTION, _say_fp32),
        (PROMOTE, _promote),
    ]
    policies += [
        (name, partial(_append_fp32, _overload(target))) for name, target in FP32_APPENDED.items()
    ]
    for names, policy in policies:
        for name in names.split():
            library.impl(name, partial(_inside, policy, _overload(name)), _KEY)
    return library, everything


def _inside(policy: Callable[..., Any], operator: Any, *args: Any, **kwargs: Any) -> Any:
    """`policy`, whose casts and operator are not cast for again."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _KEY))
    with torch._C._ExcludeDispatchKeyGuard(keys):
        return policy(operator, *args, **kwargs)


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")
