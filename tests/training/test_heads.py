"""Heads for reading on a tiny BERT and RoBERTa: shapes, counts, and methods that train them."""

import pytest
import torch

from petl_bench import assembly, backbones, method_spec, registry
from petl_bench.backbones.heads import Head
from petl_bench.case import Backbone, Case, Workload
from petl_bench.errors import UsageError
from petl_bench.method import trainable_parameters

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
METHODS = (
    "full,adapter[bottleneck=4],lora[r=2],bitfit,prompt[tokens=4],ptuning[tokens=4],"
    "prefix[tokens=2],ia3,compacter,lst[reduction=2],lst[reduction=2,head=side]"
)
SPECS = method_spec.parse_specs(METHODS)
SHAPES = {
    Head.MULTIPLE_CHOICE: {"logits": (4, 3)},
    Head.QUESTION_ANSWERING: {"start_logits": (4, 9), "end_logits": (4, 9)},
    Head.TOKEN_CLASSIFICATION: {"logits": (4, 9, 5)},
}


def tiny(family, head):
    config = backbones.FAMILIES[family].normalise(SIZES)
    return backbones.with_head(Backbone(name="tiny", family=family, config=config), head, 5)


def case(backbone, choice):
    workload = Workload(batch_size=4, source_length_tokens=9, choices=3)
    return Case(
        backbone=backbone,
        method=method_spec.fitted(choice, backbone),
        workload=backbones.fitted(backbone, workload),
    )


@pytest.mark.parametrize("head", Head)
@pytest.mark.parametrize(("label", "choice"), SPECS, ids=[label for label, _ in SPECS])
def test_a_method_trains_a_head_and_its_closed_form_counts_it(head, label, choice):
    asked = case(tiny("bert", head), choice)
    device = torch.device("cpu")
    trainee = assembly.assemble(asked, device)
    out = trainee.model(**assembly.make_batch(asked, device))
    assert {name: tuple(out[name].shape) for name in SHAPES[head]} == SHAPES[head]
    out.loss.backward()
    idle = [n for n, p in trainee.model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    method = registry.get(choice.name)
    dims = backbones.FAMILIES[asked.backbone.family].dims(asked.backbone.config)
    config = method_spec.validated_config(method, asked.method.config)
    assert trainee.trainable_parameters == trainable_parameters(method, dims, config), label


@pytest.mark.parametrize("head", Head)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_head_is_transformers_own_and_counted(family, head):
    ((_, choice),) = method_spec.parse_specs("full")
    asked = case(tiny(family, head), choice)
    model = assembly.assemble(asked, torch.device("cpu")).model
    assert type(model).__name__ in backbones.FAMILIES[asked.backbone.family].architectures
    dims = backbones.ports_of(model).dims
    outputs = {Head.MULTIPLE_CHOICE: 1, Head.QUESTION_ANSWERING: 2}.get(head, 5)
    assert dims.task_head_parameters == 32 * outputs + outputs
    counted = dims.total_parameters + dims.task_head_parameters
    assert counted == sum(parameter.numel() for parameter in model.parameters())


def test_what_has_no_such_head_says_what_has():
    other = Backbone(name="other", family="auto-sequence-classification", config={})
    with pytest.raises(UsageError, match="no head for question-answering here; take"):
        backbones.with_head(other, Head.QUESTION_ANSWERING, 2)


def test_choices_are_part_of_the_question_only_where_there_are_any():
    assert "choices" not in Workload().model_dump(mode="json")
    config = backbones.FAMILIES["bert"].normalise(SIZES)
    classifier = Backbone(name="tiny", family="bert", config=config)
    workload = Workload(source_length_tokens=9, choices=4)
    assert backbones.fitted(classifier, workload).choices == 1
