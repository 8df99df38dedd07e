"""Backbones by name: the built-in ones, and any transformers configuration.

That is a folder with a config.json, such a file, or a repository of the Hugging Face hub. Each file
beside this one is one family: its published dimensions, how to build it with random weights, and
its ports; `auto` serves the architectures that have no file.
"""

import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from petl_bench.backbones import (
    auto,
    bart,
    bart_encoder,
    bert,
    clip_t5,
    heads,
    likeness,
    llama,
    masked,
    mistral,
    qwen,
    roberta,
    t5,
)
from petl_bench.backbones.family import Family
from petl_bench.backbones.ports import Ports
from petl_bench.case import Attention, Backbone, DType, Mode, Quantization, Workload
from petl_bench.errors import UsageError, hint

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        t5.FAMILY,
        clip_t5.FAMILY,
        bert.FAMILY,
        roberta.FAMILY,
        masked.BERT,
        masked.ROBERTA,
        *heads.FAMILIES,
        bart_encoder.FAMILY,
        bart.FAMILY,
        llama.FAMILY,
        qwen.QWEN2,
        qwen.QWEN3,
        mistral.FAMILY,
        *auto.FAMILIES,
    )
}


def names() -> tuple[str, ...]:
    """Names of the built-in backbones."""
    return tuple(name for family in FAMILIES.values() for name in family.published)


def find(
    name: str,
    *,
    dtype: DType = DType.FP32,
    attention: Attention = Attention.EAGER,
    quantize: Quantization | None = None,
) -> Backbone:
    """The backbone called `name`, or that of the configuration in the folder, file or repository.

    Built-in names may be written in capitals.

    Raises:
        UsageError: neither a built-in name nor a configuration that a model can be built of.
    """
    built_in = name.lower() if "/" not in name else name
    for family in FAMILIES.values():
        if built_in in family.published:
            return Backbone(
                name=built_in,
                family=family.name,
                config=dict(family.published[built_in]),
                dtype=dtype,
                attention=attention,
                quantize=quantize,
            )
    path = _config_file(name)
    if path is None:
        nearest = hint(name, names(), listed_by="petl-bench backbones")
        raise UsageError(f"backbone: no backbone or folder {name!r}; {nearest}")
    given = Path(name).resolve()
    found = _from_file(path, given.stem if given.is_file() else given.name, dtype, attention)
    return found.model_copy(update={"quantize": quantize})


def with_head(backbone: Backbone, head: heads.Head, outputs: int) -> Backbone:
    """`backbone`, an encoder with a classifier, with `head` instead; of `outputs` classes.

    Raises:
        UsageError: its family has no such head here.
    """
    family = FAMILIES.get(f"{backbone.family}-{head}")
    if family is None:
        known = sorted(name.removesuffix(f"-{head}") for name in FAMILIES if name.endswith(head))
        raise UsageError(
            f"backbone: {backbone.name} ({backbone.family}) has no head for {head} here; "
            f"take one of: {', '.join(known)}"
        )
    config = family.normalise({**backbone.config, "num_labels": outputs})
    return backbone.model_copy(update={"family": family.name, "config": config})


def ports_of(model: nn.Module) -> Ports:
    """The ports of a transformers model, however it was made.

    Raises:
        ValueError: no family of ours knows the model's class, and its layers resemble none.
    """
    known = {name: family for family in FAMILIES.values() for name in family.architectures}
    for kind in type(model).__mro__:  # the class itself first: a family may build on another's
        if kind.__name__ in known:
            return known[kind.__name__].ports(model)
    resembled = likeness.ports(model)
    if resembled is not None:
        return resembled
    raise ValueError(f"no ports for {type(model).__name__}; known models are: {', '.join(known)}")


def class_named(name: str) -> Any:
    """The model class called `name`, of transformers' or ours.

    Raises:
        ValueError: neither has one.
    """
    import transformers  # noqa: PLC0415 - seconds that only the caller should pay

    for family in FAMILIES.values():
        if name in family.architectures and family.own_class is not None:
            return family.own_class()
    found = getattr(transformers, name, object)
    if transformers.PreTrainedModel not in getattr(found, "__mro__", ()):
        raise ValueError(f"transformers has no model class {name}")
    return found


def fitted(backbone: Backbone, workload: Workload) -> Workload:
    """`workload` as it is for `backbone`: one question gets one case, however it was asked.

    Where an example has no target beside its source, the target's length is None; a backbone
    that sees no image has an example of 1, as if it were not said; so it is with choices.

    Raises:
        UsageError: sequences longer than the backbone has positions, more images than it takes, or
            a classifier that is to generate.
    """
    family = FAMILIES[backbone.family]
    generates = workload.mode is Mode.GENERATE
    dims = family.dims(backbone.config)
    if generates and (dims.fills_masks or not dims.language_head):
        kind = "fills in masked tokens" if dims.fills_masks else "is a classifier"
        raise UsageError(f"mode: {backbone.name} {kind} and generates nothing")
    has_target = family.targets or generates
    longest = family.longest(backbone.config)
    for name in ("source_length_tokens", *(["target_length_tokens"] if has_target else [])):
        length = getattr(workload, name)
        if longest is not None and length is not None and length > longest:
            raise UsageError(f"{name}: {backbone.name} takes at most {longest} (got {length})")
    most = family.most_images(backbone.config)
    if most and workload.images > most:
        raise UsageError(f"images: {backbone.name} takes at most {most} (got {workload.images})")
    if not most:
        workload = workload.model_copy(update={"images": 1})
    if not family.chooses:
        workload = workload.model_copy(update={"choices": 1})
    default = Workload.model_fields["target_length_tokens"].default if has_target else None
    if (workload.target_length_tokens is None) == (default is None):
        return workload
    return workload.model_copy(update={"target_length_tokens": default})


def _config_file(name: str) -> Path | None:
    """The config.json that `name` stands for: a folder's, a file, or one of the hub's."""
    path = Path(name)
    if path.is_dir():
        return path / "config.json"
    if path.is_file():
        return path
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return None
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only for the hub's
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - likewise

    try:
        return Path(hf_hub_download(name, "config.json"))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        owned = name.rpartition("/")[2].lower()
        near = f"; {owned} is built in" if owned in names() else ""
        raise UsageError(
            f"backbone: no folder {name!r}, and the hub does not give its config.json: {reason}"
            f"{near}"
        ) from None


def _from_file(path: Path, name: str, dtype: DType, attention: Attention) -> Backbone:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except OSError as error:
        raise UsageError(f"backbone: cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"backbone: {path} is not a transformers config with a model_type"
        ) from None
    if not isinstance(model_type, str):
        raise UsageError(f"backbone: {path} has model_type {model_type!r}, not a name")
    try:
        family = FAMILIES.get(model_type) or FAMILIES[auto.family_of(config)]
        shape = family.normalise(config)
    except (ValueError, TypeError) as error:
        raise UsageError(f"backbone: {path}: {error}") from None
    return Backbone(name=name, family=family.name, config=shape, dtype=dtype, attention=attention)
