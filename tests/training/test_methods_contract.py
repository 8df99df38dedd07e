"""Every method in methods/ keeps the contract, on a tiny backbone of every family.

Nothing here names a method.
"""

import json
import re

import pytest
import torch

from petl_bench import cards, registry
from petl_bench.backbones import FAMILIES
from petl_bench.backbones import fitted as fitted_workload
from petl_bench.case import Autocast, Backbone, Case, MethodChoice, Mode, Quantization, Workload
from petl_bench.environment import simulated_environment
from petl_bench.method import trainable_parameters
from petl_bench.method_spec import fitted, resolve, validated_config
from petl_bench.record import Origin, Status
from petl_bench.training import make_optimizer, trainable, training_step
from petl_bench.worker import Task, run_task

CARD = cards.find("t4")
ENVIRONMENT = simulated_environment(CARD, None)

TWO_LAYERS = {"num_layers": 2, "num_decoder_layers": 2}  # a stack, as other tiny backbones have
LAYERS = {"t5": TWO_LAYERS, "clip-t5": TWO_LAYERS}

BACKBONES = {
    **{name: (name, LAYERS.get(name, {})) for name, family in FAMILIES.items() if family.published},
    "t5 gated, unscaled, fewer decoder layers": (
        "t5",
        {
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "num_decoder_layers": 2,
            "d_kv": 16,
        },
    ),
}


@pytest.fixture(scope="module", params=BACKBONES.values(), ids=BACKBONES.keys())
def backbone(request, make_tiny) -> Backbone:
    family, changes = request.param
    return make_tiny(family, **changes)


@pytest.fixture(scope="module", params=registry.names())
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def reason(name, backbone):
    """Why the method, as it is by default, does not go with the backbone; None if it does."""
    method = registry.get(name)
    dims = FAMILIES[backbone.family].dims(backbone.config)
    return method.unsupported(dims, method.config())


@pytest.fixture(scope="module")
def built(name, backbone, reason, attach):
    """For tests that leave it as it is."""
    if reason is not None:
        pytest.skip(reason)
    return attach(name, backbone)


def test_the_closed_form_is_the_number_of_trainable_parameters(name, built):
    counted = sum(parameter.numel() for parameter in trainable(built.model))
    assert counted == trainable_parameters(registry.get(name), built.dims, built.config)
    assert counted > 0


def test_the_backbones_closed_form_is_its_number_of_parameters(backbone, attach):
    built = attach("full", backbone)
    head = built.ports.task_head
    new = sum(p.numel() for p in head.parameters()) if head is not None else 0
    assert built.dims.task_head_parameters == new
    new += built.dims.extra_input_parameters
    assert built.dims.total_parameters + new == sum(p.numel() for p in built.plain.parameters())


def test_the_loss_is_a_finite_scalar_with_a_gradient(built):
    loss = built.model(**built.batch())["loss"]
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert loss.requires_grad


@pytest.mark.usefixtures("built")
def test_a_step_changes_trainable_parameters_and_no_other_bit(
    name, backbone, attach, small_workload, no_profiler
):
    """A new task head's among them: the backbone's own, or the copy that answers in its place."""
    built = attach(name, backbone)  # its own: it changes
    head = built.ports.task_head
    shapes = [] if head is None else [parameter.shape for parameter in head.parameters()]
    built.model.train()
    before = {key: value.detach().clone() for key, value in built.model.named_parameters()}
    optimizer = make_optimizer(built.model, small_workload.optimizer)
    training_step(built.model, built.batch(), optimizer, small_workload, no_profiler)
    changed = {}
    for key, parameter in built.model.named_parameters():
        if not torch.equal(parameter, before[key]):
            changed[key] = parameter.shape
            assert parameter.requires_grad, f"{key} is frozen and changed"
    assert changed
    for shape in shapes:
        assert shape in changed.values()


@pytest.mark.usefixtures("built")
def test_it_attaches_and_trains_without_data(name, backbone, attach, ledger_of):
    ledger = ledger_of(attach(name, backbone, device="meta"), steps=1)
    assert ledger.events


MODES = {
    "generation": {"mode": Mode.GENERATE},
    "beams": {"mode": Mode.GENERATE, "beams": 2},
    "inference": {"mode": Mode.INFERENCE},
    "checkpointing": {"checkpointing": True},
    "autocast": {"autocast": Autocast.FP16},
}
ASKED = [
    ("t5", None, "generation"),
    ("t5", None, "checkpointing"),
    ("llama", None, "beams"),
    ("llama", None, "inference"),
    ("auto-causal-lm", None, "generation"),
    ("t5", Quantization.INT8, "autocast"),
    ("bert", Quantization.NF4_DOUBLE, "checkpointing"),
]


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # peft, of a prompt
@pytest.mark.parametrize(("family", "quantize", "mode"), ASKED)
def test_a_simulated_case_runs_or_says_why_not(name, family, quantize, mode, make_tiny):
    """Whatever a user may ask of it: a record says ok or skipped, never error."""
    backbone = make_tiny(family, **LAYERS.get(family, {})).model_copy(update={"quantize": quantize})
    size = {"batch_size": 2, "source_length_tokens": 5, "target_length_tokens": 2}
    asked = Workload(**size, **MODES[mode], measured_steps=1)
    method = fitted(resolve(name, {}), backbone)
    case = Case(backbone=backbone, method=method, workload=fitted_workload(backbone, asked))
    record = run_task(Task(case=case, label=name), Origin.SIMULATED, CARD, ENVIRONMENT)
    if record.status is not Status.OK:
        assert record.status is Status.SKIPPED, record.reason
        assert re.fullmatch(r"[^.\n]{10,}", record.reason)


def test_only_a_backbone_without_ports_is_a_misfit_by_default(backbone, reason):
    if FAMILIES[backbone.family].dims(backbone.config).stacks:
        assert reason is None
    else:
        assert reason is None or re.fullmatch(r"[^.\n]{10,}", reason)


def test_the_config_survives_json_and_documents_every_field(name):
    choice = resolve(name, {})
    again = MethodChoice.model_validate_json(choice.model_dump_json())
    assert again == choice
    method = registry.get(name)
    assert validated_config(method, json.loads(json.dumps(again.config))) == method.config()
    for field, info in method.config.model_fields.items():
        assert info.description, f"{name}.{field} has no description"


def test_the_source_names_a_paper(name):
    method = registry.get(name)
    assert re.search(r"arXiv:\d{4}\.\d{5}|doi:10\.", method.source)
    assert method.title
    assert len(registry.source_sha256(method)) == 64
