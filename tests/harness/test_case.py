import itertools
import json
import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from petl_bench.case import (
    Attention,
    Backbone,
    Case,
    DType,
    MethodChoice,
    Mode,
    Optimizer,
    Workload,
)

CONFIG = {"d_model": 32, "dropout_rate": 0.1, "tie_word_embeddings": True, "scale": None}
METHOD_CONFIG = {"r": 8, "targets": ["q", "v"], "dropout": 0.1}


def make_case(backbone=None, method=None, workload=None):
    return Case(
        backbone=Backbone(**{"name": "a", "family": "b", "config": CONFIG} | (backbone or {})),
        method=MethodChoice(**{"name": "lora", "config": METHOD_CONFIG} | (method or {})),
        workload=Workload(**(workload or {})),
    )


# Another value for every field that there is.
OTHER_BACKBONE = {
    "name": "other",
    "family": "other",
    "config": CONFIG | {"d_model": 33},
    "dtype": DType.BF16,
    "attention": Attention.SDPA,
    "quantize": "nf4",
}
OTHER_METHOD = {"name": "other", "config": METHOD_CONFIG | {"r": 9}}
OTHER_WORKLOAD = {
    "batch_size": 7,
    "source_length_tokens": 7,
    "target_length_tokens": 7,
    "mode": Mode.INFERENCE,
    "autocast": "bf16",
    "checkpointing": True,
    "accumulation_steps": 5,
    "beams": 7,
    "optimizer": Optimizer.SGD,
    "clip_grad_norm": None,
    "seed": 7,
    "warmup_steps": 7,
    "measured_steps": 7,
    "timed_steps": 7,
    "images": 2,
    "choices": 2,
    "ddp_buckets": True,
    "zero_grad": "free",
    "parallel": "fsdp2",
    "world_size": 7,
    "gradient_as_bucket_view": True,
    "reshard_after_forward": False,
}
RANKS = {"parallel": "ddp", "world_size": 2}
SHARDED = RANKS | {"parallel": "fsdp2"}


def test_the_canonical_form_has_not_changed():
    # A change here orphans every stored record: raise PROTOCOL_VERSION and say so in CHANGELOG.
    assert make_case().case_id == "a7031dd5c49a84b1"


def test_the_id_is_the_same_whatever_the_order_of_fields():
    backwards = make_case(
        {"config": dict(reversed(CONFIG.items()))},
        {"config": dict(reversed(METHOD_CONFIG.items()))},
    )
    assert list(backwards.backbone.config) != list(CONFIG)
    assert backwards.case_id == make_case().case_id


def test_the_id_survives_json():
    case = make_case(workload={"clip_grad_norm": 0.3})
    assert Case.model_validate_json(case.model_dump_json()).case_id == case.case_id


def test_a_whole_number_and_the_same_float_give_one_id():
    as_int, as_float = (
        make_case(workload={"clip_grad_norm": 2}),
        make_case(workload={"clip_grad_norm": 2.0}),
    )
    assert as_int.case_id == as_float.case_id


def test_the_id_is_the_same_in_another_process():
    script = (
        "import sys; from petl_bench.case import Case;"
        "print(Case.model_validate_json(sys.argv[1]).case_id, 'torch' in sys.modules)"
    )
    for hash_seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", script, make_case().model_dump_json()],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert said == [make_case().case_id, "False"]


@pytest.mark.parametrize(
    ("part", "others", "model"),
    [
        ("backbone", OTHER_BACKBONE, Backbone),
        ("method", OTHER_METHOD, MethodChoice),
        ("workload", OTHER_WORKLOAD, Workload),
    ],
)
def test_another_value_of_any_field_gives_another_id(part, others, model):
    assert set(others) == set(model.model_fields), "a field has no other value above"
    ids = [make_case().case_id]
    needed = {  # by fields that mean nothing without it
        "beams": {"mode": Mode.GENERATE},
        "parallel": RANKS,
        "world_size": RANKS,
        "gradient_as_bucket_view": RANKS,
        "reshard_after_forward": SHARDED,
    }
    if part == "workload":
        ids.append(make_case(workload=RANKS).case_id)
    ids += [
        make_case(**{part: needed.get(field, {}) | {field: value}}).case_id
        for field, value in others.items()
    ]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.GENERATE])
def test_where_nothing_trains_a_field_of_training_is_none_and_may_not_be_given(mode):
    workload = Workload(mode=mode)
    assert (workload.optimizer, workload.clip_grad_norm) == (None, None)
    assert Workload.model_validate_json(workload.model_dump_json()) == workload
    with pytest.raises(ValidationError, match="optimizer: mode"):
        Workload(mode=mode, optimizer="adamw")


def test_training_needs_an_optimizer_and_has_no_beams():
    with pytest.raises(ValidationError, match="optimizer"):
        Workload(optimizer=None)
    with pytest.raises(ValidationError, match="beams"):
        Workload(beams=2)


def test_a_flag_and_a_number_in_a_config_are_told_apart():
    ids = {make_case({"config": {"x": value}}).case_id for value in (1, True, 1.5, "1", None)}
    assert len(ids) == 5


def test_the_id_can_name_a_file_on_any_system():
    assert re.fullmatch("[0-9a-f]{16}", make_case().case_id)


def test_a_case_cannot_be_changed():
    case = make_case()
    with pytest.raises(ValidationError, match="frozen"):
        case.workload = Workload(batch_size=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(
            ("batch_size", "source_length_tokens", "warmup_steps", "measured_steps", "timed_steps"),
            (0, -1, True, 1.5, "8", None),
        ),
        ("seed", True),
        ("seed", "0"),
        ("clip_grad_norm", 0),
        ("clip_grad_norm", -1.0),
        ("clip_grad_norm", True),
        ("clip_grad_norm", float("inf")),  # JSON has none: it would come back as null, no clipping
        ("clip_grad_norm", float("nan")),
        ("optimizer", "lion"),
        ("batchsize", 8),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        Workload(**{field: value})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_config_holds_no_number_that_json_lacks(value):
    with pytest.raises(ValidationError, match="finite"):
        Backbone(name="a", family="b", config={"dropout_rate": value})


def test_a_case_is_valid_json_without_help():
    assert json.loads(make_case().model_dump_json())["workload"]["batch_size"] == 100
