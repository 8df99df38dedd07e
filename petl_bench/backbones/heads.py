"""BERT and RoBERTa with transformers' heads for reading, in the place of a classifier of texts.

multiple-choice       one score a text; an example is several texts, of which one is right
question-answering    two scores a token: an answer begins here, and ends here
token-classification  scores of the classes a token

Each is one linear layer, new with the task. Source: Devlin et al. 2019, arXiv:1810.04805, sections
4.2 to 4.4. A family is called by its encoder's name and its head's: bert-multiple-choice.

Legend: B batch, C choices, S tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from torch import nn

from petl_bench.backbones import bert, roberta
from petl_bench.backbones.build import classification_batch, from_config
from petl_bench.backbones.family import Family
from petl_bench.backbones.ports import Ports
from petl_bench.case import Backbone, ConfigValue, Workload

Batch = Callable[[Backbone, Workload, torch.device], dict[str, torch.Tensor]]


class Head(StrEnum):
    """What stands on an encoder, beside a classifier of whole texts."""

    MULTIPLE_CHOICE = "multiple-choice"
    QUESTION_ANSWERING = "question-answering"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - no password


def _choice_batch(
    backbone: Backbone, workload: Workload, device: torch.device
) -> dict[str, torch.Tensor]:
    """Texts, [B, C, S], and the number of the right one, [B]."""
    B, C = workload.batch_size, workload.choices
    flat = classification_batch(
        backbone, workload.model_copy(update={"batch_size": B * C}), torch.device("cpu")
    )
    batch = {name: x.view(B, C, -1) for name, x in flat.items() if name != "labels"}
    batch["labels"] = torch.arange(B) % C
    return {name: x.to(device) for name, x in batch.items()}


def _span_batch(
    backbone: Backbone, workload: Workload, device: torch.device
) -> dict[str, torch.Tensor]:
    """Texts, [B, S], and the first and last token of an answer, [B]."""
    batch = classification_batch(backbone, workload, torch.device("cpu"))
    del batch["labels"]
    last_B = torch.arange(workload.batch_size) % workload.source_length_tokens
    batch |= {"start_positions": torch.zeros_like(last_B), "end_positions": last_B}
    return {name: x.to(device) for name, x in batch.items()}


def _token_batch(
    backbone: Backbone, workload: Workload, device: torch.device
) -> dict[str, torch.Tensor]:
    """Texts, [B, S], and a class a token, [B, S]; padding has none."""
    batch = classification_batch(backbone, workload, torch.device("cpu"))
    labels_BS = batch["input_ids"] % backbone.config["num_labels"]  # type: ignore[operator]
    batch["labels"] = labels_BS.masked_fill(batch["attention_mask"] == 0, -100)
    return {name: x.to(device) for name, x in batch.items()}


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What a head is in transformers and peft."""

    architecture: str  # what follows an encoder's name in its class
    peft_task: str
    batch: Batch
    outputs: int | None = None  # None: the classes there are
    module: str = "classifier"
    pooled: bool = False  # it reads the pooled first token, else every token


_KINDS = {
    Head.MULTIPLE_CHOICE: _Kind(
        architecture="ForMultipleChoice",
        peft_task="SEQ_CLS",  # peft has no other; `attaching` folds the choices into its batch
        batch=_choice_batch,
        outputs=1,
        pooled=True,
    ),
    Head.QUESTION_ANSWERING: _Kind(
        architecture="ForQuestionAnswering",
        peft_task="QUESTION_ANS",
        batch=_span_batch,
        outputs=2,
        module="qa_outputs",
    ),
    Head.TOKEN_CLASSIFICATION: _Kind(
        architecture="ForTokenClassification", peft_task="TOKEN_CLS", batch=_token_batch
    ),
}


def _ports(model: nn.Module, kind: _Kind, normalise: Any) -> Ports:
    found = bert.ports(model, lambda config: _dims(normalise(config), kind), kind.module)
    return replace(
        found,
        peft_task=kind.peft_task,
        head_reads="pooled" if kind.pooled else "tokens",
    )


def _dims(config: Mapping[str, Any], kind: _Kind) -> Any:
    return bert.dims(config, pooler=kind.pooled, head_layers=1)


def _normalise(
    config: Mapping[str, Any],
    kind: _Kind,
    encoder: Callable[[Mapping[str, Any]], dict[str, ConfigValue]],
) -> dict[str, ConfigValue]:
    found = encoder(config)
    return found if kind.outputs is None else {**found, "num_labels": kind.outputs}


def _build(backbone: Backbone, name: str, kind: _Kind) -> nn.Module:
    import transformers  # noqa: PLC0415 - only workers need it

    config = getattr(transformers, f"{name}Config")(**backbone.config)
    create = getattr(transformers, f"{name}{kind.architecture}")._from_config  # noqa: SLF001
    return from_config(create, config, backbone)


def _family(plain: Family, name: str, head: Head) -> Family:
    kind = _KINDS[head]
    normalise = partial(_normalise, kind=kind, encoder=plain.normalise)
    return Family(
        name=f"{plain.name}-{head}",
        architectures=(f"{name}{kind.architecture}",),
        published={},
        normalise=normalise,
        dims=partial(_dims, kind=kind),
        build=partial(_build, name=name, kind=kind),
        ports=partial(_ports, kind=kind, normalise=normalise),
        batch=kind.batch,
        targets=False,
        chooses=head is Head.MULTIPLE_CHOICE,
        longest=plain.longest,
    )


FAMILIES = tuple(
    _family(plain, name, head)
    for plain, name in ((bert.FAMILY, "Bert"), (roberta.FAMILY, "Roberta"))
    for head in Head
)
