"""A case made real: the model that trains, and its batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from petl_bench import registry
from petl_bench.backbones import FAMILIES
from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.case import Autocast, Case, DType, Mode, Optimizer, Parallel
from petl_bench.low_bit import packed_away, quantise
from petl_bench.method import Method, MethodConfig, attach, trainable_parameters
from petl_bench.method_spec import validated_config
from petl_bench.training import make_buckets, trainable


@dataclass(frozen=True)
class Trainee:
    """A backbone with a method attached, in training mode where it is to train."""

    model: nn.Module
    ports: Ports | None  # of the backbone; None: a model that no family of ours knows
    backbone_parameters: int  # before the method added any
    backbone_names: Mapping[nn.Module, str]  # its modules' paths, before the method moved any
    buckets: tuple[torch.Tensor, ...] = ()  # that a distributed wrapper would gather gradients in

    @property
    def total_parameters(self) -> int:
        """Parameters of the module that trains, frozen and added ones included."""
        return _count(self.model)

    @property
    def trainable_parameters(self) -> int:
        """Parameters that train."""
        return sum(parameter.numel() for parameter in trainable(self.model))


def unsupported(case: Case) -> str | None:
    """Why the case's method does not go with its backbone, in one sentence; None if it does."""
    method = registry.get(case.method.name)
    dims = FAMILIES[case.backbone.family].dims(case.backbone.config)
    config = validated_config(method, case.method.config)
    return method.unsupported(dims, config) or _contradiction(case, dims, method, config)


def _contradiction(case: Case, dims: Dims, method: Method[Any], config: MethodConfig) -> str | None:
    if (
        case.workload.mode is Mode.TRAINING
        and case.backbone.quantize is not None
        and (trainable_parameters(method, dims, config) or 0) >= dims.total_parameters
    ):
        return f"{case.backbone.quantize} weights are frozen, and this method trains them all"
    if case.backbone.quantize is not None and method.initialisation(config) is not None:
        return f"{case.backbone.quantize} weights have no gradients to start the method from"
    fp16 = case.backbone.dtype is DType.FP16 and case.workload.autocast is Autocast.FP16
    if fp16 and case.workload.mode is Mode.TRAINING:
        return "autocast to fp16 scales the loss, and that is not for weights of fp16"
    if case.workload.parallel is Parallel.FSDP2:
        return _not_sharded(case, method, config)
    return None


def _not_sharded(case: Case, method: Method[Any], config: MethodConfig) -> str | None:
    """Why FSDP2 cannot share the case between ranks, or not as it is simulated here."""
    if case.backbone.quantize is not None:
        return f"parallel fsdp2 is not simulated with {case.backbone.quantize} weights"
    optimizer = case.workload.optimizer
    if optimizer in {Optimizer.ADAFACTOR, Optimizer.ADAMW_8BIT}:  # their states are no shards
        return f"parallel fsdp2 is not simulated with {optimizer}"
    if method.initialisation(config) is not None:
        return "parallel fsdp2 shards the weights whose gradients the method starts from"
    return None


def assemble(case: Case, device: torch.device) -> Trainee:
    """The case's backbone with random weights on `device`, its method attached."""
    family = FAMILIES[case.backbone.family]
    method = registry.get(case.method.name)
    config = validated_config(method, case.method.config)
    with device:
        backbone = family.build(case.backbone)
        backbone_parameters = _count(backbone)
        if case.backbone.quantize is not None:
            quantise(backbone, case.backbone.quantize, family.ports(backbone).task_head)
        # Weak: a module that the method throws away must not stay in memory for its name.
        names = WeakKeyDictionary({module: name for name, module in backbone.named_modules()})
        ports = family.ports(backbone)
        model = attach(method, backbone, ports, config)
    if case.workload.checkpointing:
        method.checkpoint(model)
    model.train(case.workload.mode is Mode.TRAINING)
    buckets = make_buckets(model) if case.workload.ddp_buckets else ()
    return Trainee(model, ports, backbone_parameters, names, buckets)


def initialisation(case: Case) -> Callable[[Trainee, torch.device], None] | None:
    """What the case's method does with a trainee before training; None: nothing.

    It sees two batches of one example: what one leaves behind, the other finds.
    """
    method = registry.get(case.method.name)
    initialise = method.initialisation(validated_config(method, case.method.config))
    if initialise is None:
        return None
    single = {"batch_size": 1, "accumulation_steps": 1}
    example = case.model_copy(update={"workload": case.workload.model_copy(update=single)})

    def run(trainee: Trainee, device: torch.device) -> None:
        initialise(trainee.model, [make_batch(example, device) for _ in range(2)])

    return run


def make_batch(case: Case, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch of the workload's shape on `device`: one part, where gradients are accumulated."""
    part = case.workload.model_copy(
        update={"batch_size": case.workload.part_size, "accumulation_steps": 1}
    )
    return FAMILIES[case.backbone.family].batch(case.backbone, part, device)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters()) + packed_away(model)
