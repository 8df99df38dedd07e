"""Frozen linear layers of 4 and 8 bits a weight.

bitsandbytes on a CUDA device; elsewhere stand-ins that hold and borrow the same bytes and compute
nothing. Sources: Dettmers et al. 2023, arXiv:2305.14314 (nf4) and 2022, arXiv:2208.07339 (int8);
bytes as in bitsandbytes 0.50: nn/modules.py, autograd/_functions.py (MatMul4Bit, MatMul8bitLt),
backends/cuda/ops.py. Which layers: transformers' get_keys_to_not_convert and _keep_in_fp32_modules
(quantizers/base.py). Left out: nf4's fused kernels for a few tokens, and int8's columns of
outliers, which depend on values.

Legend: N tokens of a batch, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from petl_bench.case import Quantization

NF4_BLOCK = 64  # weights that share a maximum
ABSMAX_BLOCK = 256  # of these, when they are quantised themselves
NF4_CODE, BYTE_CODE = 16, 256  # values that 4 and 8 bits stand for
OUTLIER = 6.0  # transformers' llm_int8_threshold


def quantise(
    model: nn.Module, quantization: Quantization, task_head: nn.Module | None = None
) -> None:
    """Put low-bit layers in place of a transformers model's linear layers, but for its heads.

    A `task_head` is left alone since it trains: transformers would convert it unless its name is
    among `llm_int8_skip_modules`.

    Raises:
        ValueError: the model is on a CUDA device and bitsandbytes is not installed.
    """
    byte_code: torch.Tensor | None = None
    skipped = set() if task_head is None else set(task_head.modules())
    for path, linear in _convertible(model):
        if linear in skipped:
            continue
        with linear.weight.device:
            if linear.weight.is_cuda:
                made = _of_bitsandbytes(linear, quantization)
            elif quantization is Quantization.INT8:
                made = SizedInt8(linear)
            else:
                double = quantization is Quantization.NF4_DOUBLE
                made = SizedNf4(linear, double=double)
                if double and byte_code is None:
                    # The library's own, of which every layer has a copy.
                    byte_code = torch.zeros(BYTE_CODE)
                    made.register_buffer("byte_code", byte_code, persistent=False)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, made)


def packed_away(model: nn.Module) -> int:
    """Weights that `numel` does not count, since two of them share a byte."""
    return sum(
        module.in_features * module.out_features - module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.weight.dtype is torch.uint8
    )


def _convertible(model: Any) -> list[tuple[str, nn.Linear]]:
    head = model.get_output_embeddings()
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head and not kept & set(path.split(".")):
            found.append((path, module))
    return found


def _of_bitsandbytes(linear: nn.Linear, quantization: Quantization) -> nn.Linear:
    try:
        from bitsandbytes import nn as low  # noqa: PLC0415 - only where it measures
    except ImportError:
        raise ValueError("quantize: is measured with bitsandbytes: install it") from None
    size, bias = (linear.in_features, linear.out_features), linear.bias is not None
    made: nn.Linear
    if quantization is Quantization.INT8:
        made = low.Linear8bitLt(*size, bias, has_fp16_weights=False, threshold=OUTLIER)
        weight = low.Int8Params(linear.weight.data.cpu(), requires_grad=False)
    else:
        double = quantization is Quantization.NF4_DOUBLE
        made = low.Linear4bit(*size, bias, linear.weight.dtype, double, "nf4")
        weight = low.Params4bit(
            linear.weight.data.cpu(),
            requires_grad=False,
            compress_statistics=double,
            quant_type="nf4",
        )
    made.weight, made.bias = weight, linear.bias
    return made.to(linear.weight.device)  # quantises


class SizedNf4(nn.Linear):
    """Linear4bit by its bytes.

    A packed weight [I O / 2, 1], a maximum for 64 of them in fp32 and a table of the 16 values.
    With `double` the maxima have a byte each, and a maximum again for 256 of them, their mean, and
    a table of the 256 values.
    """

    def __init__(self, linear: nn.Linear, *, double: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        n = linear.weight.numel()
        packed = torch.zeros(-(-n // 2), 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_parameter("bias", linear.bias)
        self.blocks = -(-n // NF4_BLOCK)
        kept = {"code": torch.zeros(NF4_CODE)}
        if not double:
            kept["absmax"] = torch.zeros(self.blocks)
        else:
            kept["absmax"] = torch.zeros(self.blocks, dtype=torch.uint8)
            kept["absmax_absmax"] = torch.zeros(-(-self.blocks // ABSMAX_BLOCK))
            kept["absmax_mean"] = torch.zeros(())
            kept["absmax_code"] = torch.zeros(BYTE_CODE)
        for name, tensor in kept.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Results of the right shape, [N, O]."""
        out: torch.Tensor = _Nf4Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return out

    def dequantised(self) -> torch.Tensor:
        """The weight [O, I] as it was, after its maxima where these are quantised."""
        if "absmax_mean" in self._buffers:
            self.weight.new_empty(self.blocks, dtype=torch.float32).add_(1)
        return self.weight.new_empty(self.out_features, self.in_features, dtype=self.dtype)


class _Nf4Product(torch.autograd.Function):
    """MatMul4Bit: the whole weight is dequantised in forward, and again in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: SizedNf4) -> Any:
        ctx.layer = layer
        return F.linear(x, layer.dequantised().to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        return grad @ ctx.layer.dequantised().to(grad.dtype), _bias_gradient(ctx, grad), None


class SizedInt8(nn.Linear):
    """Linear8bitLt by its bytes: a weight of bytes and a maximum a row in fp32."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        bytes_OI = torch.zeros(self.out_features, self.in_features, dtype=torch.int8)
        self.weight = nn.Parameter(bytes_OI, requires_grad=False)
        self.register_parameter("bias", linear.bias)
        self.register_buffer("SCB", torch.zeros(self.out_features), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Results of the right shape, [N, O]."""
        out: torch.Tensor = _Int8Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return out


class _Int8Product(torch.autograd.Function):
    """MatMul8bitLt: rows of the input become bytes; backward dequantises the weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: SizedInt8) -> Any:
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        x_NI = x.reshape(-1, x.shape[-1])
        bytes_NI, maxima_N = _quantised(x_NI.to(torch.float16))
        sums_NO = x.new_empty(len(x_NI), layer.out_features, dtype=torch.int32)
        out_NO = torch.empty_like(sums_NO, dtype=torch.float16)
        if bias is not None:
            out_NO.add_(bias)
        out_NO = out_NO.to(x.dtype)
        del bytes_NI, maxima_N, sums_NO
        ctx.x_NI = x_NI if any(ctx.needs_input_grad) else None  # kept, though nothing reads it
        return out_NO.view(*x.shape[:-1], layer.out_features)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        layer = ctx.layer
        bias = _bias_gradient(ctx, grad)
        grad_NO = grad.reshape(-1, grad.shape[-1]).contiguous()
        scale_O1 = layer.SCB.unsqueeze(1).mul(1.0 / 127.0)
        weight_OI = layer.weight.to(ctx.dtype, copy=True).mul_(scale_O1)
        del scale_O1
        return (grad_NO.to(ctx.dtype) @ weight_OI).view(ctx.shape), bias, None


def _quantised(x_NI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8_vectorwise_quant: a byte an element, a maximum a row, and a look for outliers."""
    maxima_N = x_NI.new_empty(len(x_NI), dtype=torch.float32)
    bytes_NI = torch.empty_like(x_NI, dtype=torch.int8)
    outliers_NI = x_NI.abs() >= OUTLIER
    outliers_NI.any()
    return bytes_NI, maxima_N


def _bias_gradient(ctx: Any, grad: torch.Tensor) -> torch.Tensor | None:
    if not ctx.needs_input_grad[1]:
        return None
    return grad.reshape(-1, grad.shape[-1]).sum(0)
