"""A peft config completed for one backbone: which modules it is for."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch

from petl_bench.backbones import FAMILIES
from petl_bench.case import Backbone
from petl_bench.errors import UsageError
from petl_bench.peft_methods.config import ALL_LINEAR, PeftMethodConfig


def fit(backbone: Backbone, config: PeftMethodConfig) -> PeftMethodConfig:
    """`config` with what it leaves to the model filled in.

    `target_modules` are peft's own for the model's type; where peft has none, all linear layers,
    or all norms, for what is of norms in other models.

    Raises:
        UsageError: no module of the backbone is a target.
    """
    fields = type(config).model_fields
    found: dict[str, Any] = {}
    tuner = _tuner(config)
    targets = getattr(tuner, "target_module_mapping", None)
    if targets and config_value(config, "target_modules") is None:
        chosen = targets.get(_model_type(backbone, tuple(targets))) or _all_of(backbone, targets)
        found["target_modules"] = chosen if isinstance(chosen, str) else sorted(chosen)
    if "adapter_layers" in fields and config_value(config, "adapter_layers") is None:
        stacks = FAMILIES[backbone.family].dims(backbone.config).stacks
        found["adapter_layers"] = list(stacks.values())[-1].layers
    if "hidden_size" in fields and config_value(config, "hidden_size") is None:
        found["hidden_size"] = FAMILIES[backbone.family].dims(backbone.config).hidden_size
    fitted = type(config).model_validate({**config.model_dump(mode="json"), **found})
    _check_targets(backbone, fitted, tuner)
    return fitted


def _all_of(backbone: Backbone, targets: Mapping[str, Any]) -> str | list[str]:
    if not any("norm" in name for names in targets.values() for name in names or ()):
        return ALL_LINEAR
    return sorted({name.rpartition(".")[2] for name in _modules_of(backbone).norms})


def config_value(config: PeftMethodConfig, field: str) -> Any:
    """Its `field`; None if it has no such one."""
    return getattr(config, field, None)


def _tuner(config: PeftMethodConfig) -> Any:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING  # noqa: PLC0415 - it takes two seconds

    return PEFT_TYPE_TO_TUNER_MAPPING[config.peft_config().peft_type]


def _model_type(backbone: Backbone, known: tuple[str, ...]) -> str:
    """The family's name as transformers says it: an `x-encoder` is an `x`."""
    matching = [name for name in known if f"{backbone.family}-".startswith(f"{name}-")]
    return max(matching, key=len, default=backbone.family)


def _check_targets(backbone: Backbone, config: PeftMethodConfig, tuner: Any) -> None:
    targets = config_value(config, "target_modules")
    if not targets or targets == ALL_LINEAR or not hasattr(tuner, "_check_target_module_exists"):
        return
    names, owners, _ = _modules_of(backbone)
    peft_config = config.peft_config()
    matches = tuner._check_target_module_exists  # noqa: SLF001 - peft has no public one
    if not any(matches(peft_config, name) for name in names):
        last = sorted({name.rpartition(".")[2] for name in owners})
        raise UsageError(
            f"{config.address}: target_modules: no module of {backbone.name} is one of "
            f"{targets}; it has: {', '.join(last)}"
        )


class _Modules(NamedTuple):
    """Names of a model's modules."""

    names: tuple[str, ...]
    owners: tuple[str, ...]  # that own parameters
    norms: tuple[str, ...]


def _modules_of(backbone: Backbone) -> _Modules:
    return _module_names(backbone.family, json.dumps(backbone.config, sort_keys=True))


@cache
def _module_names(family: str, config: str) -> _Modules:
    with torch.device("meta"):
        built = Backbone(name=family, family=family, config=json.loads(config))
        model = FAMILIES[family].build(built)
    modules = [(name, module) for name, module in model.named_modules() if name]
    return _Modules(
        names=tuple(name for name, _ in modules),
        owners=tuple(name for name, module in modules if list(module.parameters(recurse=False))),
        norms=tuple(name for name, module in modules if type(module).__name__.endswith("Norm")),
    )
