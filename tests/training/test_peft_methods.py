"""Every type of the installed peft, beside peft itself on real tensors."""

import warnings
from pathlib import Path

import pytest

from petl_bench import method_spec, registry
from petl_bench.backbones import FAMILIES
from petl_bench.case import DType
from petl_bench.errors import UsageError
from petl_bench.training import trainable

PAGE = Path(__file__).parents[2] / "docs" / "peft.md"
KINDS = [name.removeprefix("peft:") for name in registry.names("peft")]

# Where peft's default is too large for a tiny model.
SMALLER = {
    "c3a": {"block_size": 16},
    "lokr": {"r": 4},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 16},
    "road": {"group_size": 16},
    "shira": {"r": 4},
    "vblora": {"vector_length": 16},
    "waveft": {"n_frequency": 100},
}
NOT_BUILT = {"adamss": "scikit-learn is required", "xlora": "adapters must be given"}
NOT_ON_ENCODER_DECODERS = {
    "adaption_prompt": "Unsupported model type",
    "cpt": "CAUSAL_LM",
    "shadow": "decoder",
}


def spec_of(kind):
    fields = ",".join(f"{name}={value}" for name, value in SMALLER.get(kind, {}).items())
    return f"peft:{kind}[{fields}]"


def made_of(model):
    """Each tensor's shape, dtype and training, and which of the tensors share a storage."""
    storages, found = {}, {}
    for tensors in (
        model.named_parameters(remove_duplicate=False),
        model.named_buffers(remove_duplicate=False),
    ):
        for name, tensor in tensors:
            storage = storages.setdefault(tensor.untyped_storage()._cdata, len(storages))
            found[name] = (tuple(tensor.shape), tensor.dtype, tensor.requires_grad, storage)
    return found


def by_peft_itself(kind, backbone):
    """Peft's model on real tensors, made as peft's documentation makes it."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    family = FAMILIES[backbone.family]
    plain = family.build(backbone)
    ((_, choice),) = method_spec.parse_specs(spec_of(kind))
    ours = method_spec.validated_config(registry.get(choice.name), choice.config)
    given = ours.settings()
    if kind == "adaption_prompt":  # peft has no default
        given["adapter_layers"] = plain.config.num_hidden_layers
    make = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind.upper())]
    task = family.ports(plain).peft_task
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(plain, make(task_type=task, **given))


@pytest.fixture(params=["llama", "t5"])
def backbone(request, make_tiny):
    smaller = {"num_layers": 1, "num_decoder_layers": 1} if request.param == "t5" else {}
    return make_tiny(request.param, **smaller).model_copy(update={"dtype": DType.BF16})


@pytest.mark.parametrize("kind", KINDS)
def test_without_data_it_is_made_as_peft_makes_it(kind, backbone, attach):
    """Shapes, dtypes, ties, and what trains: the count is peft's own."""
    refusals = NOT_BUILT | (NOT_ON_ENCODER_DECODERS if backbone.family == "t5" else {})
    if kind in refusals:
        with pytest.raises(UsageError, match=refusals[kind]):
            attach(spec_of(kind), backbone, device="meta")
        return
    theirs = by_peft_itself(kind, backbone)
    ours = attach(spec_of(kind), backbone, device="meta").model
    assert made_of(ours) == made_of(theirs)
    trained = sum(parameter.numel() for parameter in trainable(ours))
    assert trained == theirs.get_nb_trainable_parameters()[0] > 0
