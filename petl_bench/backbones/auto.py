"""Any other architecture of transformers, from its configuration: a model without our ports.

What is found in it without knowing it: projections by the last part of their name, norms, a
language head or a classifier, and their sizes, from the model itself built without data. So full
fine-tuning, BitFit and peft's methods run; methods that meet layers one by one say that they
cannot.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import likeness, named, shape
from petl_bench.backbones.build import (
    classification_batch,
    from_config,
    language_batch,
    sequence_to_sequence_batch,
)
from petl_bench.backbones.dims import Dims, Loose
from petl_bench.backbones.family import Family
from petl_bench.backbones.layer import is_projection, sizes
from petl_bench.backbones.ports import Ports
from petl_bench.backbones.roles import HOLDERS, ROLES
from petl_bench.case import Backbone, ConfigValue, Workload

_NOT_SHAPE = {
    "architectures",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "quantization_config",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
}


@dataclass(frozen=True, kw_only=True)
class Auto:
    """Models of one of transformers' Auto classes."""

    name: str
    factory: str  # the Auto class
    peft_task: str
    batch: Callable[..., dict[str, torch.Tensor]]
    published: Mapping[str, Mapping[str, ConfigValue]] = field(default_factory=dict, hash=False)

    @property
    def family(self) -> Family:
        """What the harness asks for."""
        return Family(
            name=self.name,
            architectures=(),
            published=self.published,
            normalise=self.normalise,
            dims=lambda config: _dims(self, json.dumps(config, sort_keys=True)),
            build=self.build,
            ports=self.ports,
            batch=self.batch_of,
            targets=self.peft_task == "SEQ_2_SEQ_LM",
            longest=lambda config: _dims(self, json.dumps(config, sort_keys=True)).longest,
        )

    def normalise(self, config: Mapping[str, Any]) -> dict[str, ConfigValue]:
        """The configuration but for what shapes no network; dimensions must make sense.

        Raises:
            ValueError: dimensions that make no sense, or that no model can be built of.
        """
        kept = {
            key: value
            for key, value in config.items()
            if key not in _NOT_SHAPE and not key.startswith("_")
        }
        if self.peft_task == "SEQ_CLS":
            kept["num_labels"] = shape.labels(config)
        nested = any(isinstance(part, dict) for part in kept.values())
        if "vocab_size" in kept or (not nested and _has_vocabulary(str(kept["model_type"]))):
            shape.read(kept, {"vocab_size": shape.REQUIRED})  # else it is a part's, or its default
        parsed = _parsed(kept)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            value = likeness.field(parsed, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a whole number, at least 1 (got {value!r})")
        try:
            _dims(self, json.dumps(kept, sort_keys=True))
        except Exception as error:  # noqa: BLE001 - architectures refuse in ways of their own
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"no {kept['model_type']} can be built of it: {first}") from None
        return kept

    def build(self, backbone: Backbone) -> nn.Module:
        """Random weights, on torch's current default device."""
        import transformers  # noqa: PLC0415 - only workers need it

        config = _parsed(backbone.config)
        config.use_cache = False
        for name in vars(config):
            if name.endswith("layerdrop"):
                # LayerDrop skips layers by chance; the step that runs all of them needs most.
                setattr(config, name, 0.0)
        if self.peft_task == "SEQ_2_SEQ_LM":
            for token in ("pad_token_id", "decoder_start_token_id"):
                if getattr(config, token, None) is None:
                    setattr(config, token, 0)
        return from_config(getattr(transformers, self.factory).from_config, config, backbone)

    def batch_of(
        self, backbone: Backbone, workload: Workload, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """A batch whose tokens are of the model's vocabulary, wherever its configuration has it."""
        if "vocab_size" not in backbone.config:
            rows = _dims(self, json.dumps(backbone.config, sort_keys=True)).vocabulary_size
            config = {**backbone.config, "vocab_size": rows}
            backbone = backbone.model_copy(update={"config": config})
        return self.batch(backbone, workload, device)

    def ports(self, model: nn.Module) -> Ports:
        """What can be found in any model.

        Raises:
            ValueError: a classifier without a head of a name that peft knows.
        """
        resembled = likeness.ports(model)
        if resembled is not None:
            return resembled
        found: Any = model
        _, task_head = likeness.heads(found) if self.peft_task == "SEQ_CLS" else (None, None)
        if self.peft_task == "SEQ_CLS" and task_head is None:
            raise ValueError(f"{type(model).__name__} has no module classifier or score")
        head = found.get_output_embeddings() if task_head is None else None
        projections: dict[str, list[nn.Module]] = {}
        for name, module in _inside_layers(model):
            leaf = name.rpartition(".")[2]
            if is_projection(module):
                projections.setdefault(ROLES.get(leaf, leaf), []).append(module)
        norms = tuple(module for module in model.modules() if _is_norm(module))
        return Ports(
            dims=_found_dims(found, projections, norms, head, task_head),
            sublayers=(),
            norms=norms,
            stacks=(),
            language_head=head,
            task_head=task_head,
            peft_task=self.peft_task,
            loose=projections,
            embedding=found.get_input_embeddings(),
        )


def _parsed(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig, PreTrainedConfig, logging  # noqa: PLC0415 - seconds

    # A copy, since transformers writes into what it is given; infinity is an object in JSON.
    others = PreTrainedConfig._decode_special_floats(copy.deepcopy(dict(config)))  # noqa: SLF001
    model_type = others.pop("model_type")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it says of tokens is for those who generate
    try:
        return AutoConfig.for_model(str(model_type), **others)
    finally:
        logging.set_verbosity(verbosity)


@cache
def _has_vocabulary(model_type: str) -> bool:
    """Whether an architecture has one of this name: FSMT has two, CANINE reads characters."""
    try:
        return hasattr(_parsed({"model_type": model_type}), "vocab_size")
    except Exception:  # noqa: BLE001 - no default configuration, in ways of their own
        return True


@cache
def _dims(auto: Auto, config: str) -> Dims:
    with torch.device("meta"):
        backbone = Backbone(name="", family=auto.name, config=json.loads(config))
        return auto.ports(auto.build(backbone)).dims


def _found_dims(
    model: Any,
    projections: Mapping[str, list[nn.Module]],
    norms: tuple[nn.Module, ...],
    language_head: nn.Module | None,
    task_head: nn.Module | None,
) -> Dims:
    config = model.config.get_text_config()
    embedding = model.get_input_embeddings().weight
    heads = likeness.field(config, "num_attention_heads") or 1
    new = sum(p.numel() for p in task_head.parameters()) if task_head is not None else 0
    vocabulary, hidden = embedding.shape
    shapes = {role: tuple(map(sizes, modules)) for role, modules in projections.items()}
    biases = sum(outputs for found in shapes.values() for _, outputs in found)
    return Dims(
        hidden_size=hidden,
        num_heads=heads,
        num_key_value_heads=likeness.field(config, "num_key_value_heads") or heads,
        head_size=likeness.field(config, "head_dim") or hidden // heads,
        feed_forward_size=likeness.field(config, "intermediate_size") or 4 * hidden,
        feed_forward_inputs=1,
        vocabulary_size=vocabulary,
        dropout=0.0,
        stacks={},
        outside_parameters=sum(p.numel() for p in model.parameters()) - new,
        labels=getattr(config, "num_labels", 0) if task_head is not None else 0,
        task_head_parameters=new,
        language_head=language_head is not None,
        longest=likeness.longest(model),
        loose=Loose(
            shapes=shapes,
            holders={
                role: next((name for name in names if name in shapes), None)
                for role, names in HOLDERS.items()
                if role not in shapes
            },
            bias_terms=biases
            + sum(_vector(norm).numel() for norm in norms)
            + (language_head is not None) * vocabulary,
            norm_parameters=sum(p.numel() for norm in norms for p in norm.parameters()),
        ),
    )


def _inside_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules, by name, of every list of layers."""
    lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    prefixes = tuple(f"{name}." for name in lists)
    return [(name, m) for name, m in model.named_modules() if name.startswith(prefixes)]


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    named = "norm" in type(module).__name__.lower()
    return named and isinstance(weight, nn.Parameter) and weight.dim() == 1


def _vector(norm: nn.Module) -> torch.Tensor:
    assert isinstance(norm.weight, torch.Tensor)
    return norm.weight


CAUSAL = Auto(
    name="auto-causal-lm",
    factory="AutoModelForCausalLM",
    peft_task="CAUSAL_LM",
    batch=language_batch,
    published=named.LANGUAGE_MODELS,
)
CLASSIFIER = Auto(
    name="auto-sequence-classification",
    factory="AutoModelForSequenceClassification",
    peft_task="SEQ_CLS",
    batch=classification_batch,
    published=named.CLASSIFIERS,
)
SEQUENCE_TO_SEQUENCE = Auto(
    name="auto-seq2seq-lm",
    factory="AutoModelForSeq2SeqLM",
    peft_task="SEQ_2_SEQ_LM",
    batch=sequence_to_sequence_batch,
)
FAMILIES = tuple(auto.family for auto in (CAUSAL, CLASSIFIER, SEQUENCE_TO_SEQUENCE))


def family_of(config: Mapping[str, Any]) -> str:
    """The name of the family that builds a model of `config`.

    Raises:
        ValueError: an architecture that transformers does not have, or only for other tasks.
    """
    from transformers.models.auto import configuration_auto, modeling_auto  # noqa: PLC0415

    kind = config["model_type"]
    if kind not in configuration_auto.CONFIG_MAPPING_NAMES:
        raise ValueError(f"transformers has no model_type {kind!r}")
    causal = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    classifies = kind in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    masked = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    first = str(next(iter(config.get("architectures") or ()), ""))
    if kind in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return SEQUENCE_TO_SEQUENCE.name
    if causal and (not (masked and classifies) or first.endswith(("ForCausalLM", "LMHeadModel"))):
        return CAUSAL.name
    if classifies:
        return CLASSIFIER.name
    raise ValueError(f"a {kind} has neither a language head nor a classifier in transformers")
