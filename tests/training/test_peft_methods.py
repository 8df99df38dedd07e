"""Every type of the installed peft, beside peft itself on real tensors."""

import json
import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from petl_bench import method_spec, registry
from petl_bench.backbones import FAMILIES
from petl_bench.case import DType
from petl_bench.errors import UsageError
from petl_bench.record import Phase
from petl_bench.training import trainable

PAGE = Path(__file__).parents[2] / "docs" / "peft.md"
KINDS = [name.removeprefix("peft:") for name in registry.names("peft")]

# Where peft's default is too large for a tiny model.
SMALLER = {
    "c3a": {"block_size": 16},
    "fourierft": {"n_frequency": 100},
    "lokr": {"r": 4},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 16},
    "psoft": {"r": 8},
    "road": {"group_size": 16},
    "shira": {"r": 4},
    "vblora": {"vector_length": 16},
    "waveft": {"n_frequency": 100},
}
BY_WEIGHTS = {"adamss"}  # it clusters them, so that shapes of parts, not their sum, are its draw's
NEEDS = {"adamss": "sklearn"}
NOT_ON_ENCODER_DECODERS = {
    "adaption_prompt": "Unsupported model type",
    "cpt": "CAUSAL_LM",
    "shadow": "decoder",
    "xlora": "the source's tokens",
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


def by_peft_itself(kind, backbone, folder):
    """Peft's model on real tensors, made as peft's documentation makes it."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    family = FAMILIES[backbone.family]
    plain = family.build(backbone)
    ((_, choice),) = method_spec.parse_specs(spec_of(kind))
    ours = method_spec.validated_config(registry.get(choice.name), choice.config)
    given, task = ours.settings(), family.ports(plain).peft_task
    if kind == "adaption_prompt":  # peft has no default
        given["adapter_layers"] = plain.config.num_hidden_layers
    if kind == "xlora":
        given["hidden_size"] = family.dims(backbone.config).hidden_size
        for name in given["adapters"]:
            given["adapters"][name] = str(folder / name)
            expert = peft.get_peft_model(family.build(backbone), peft.LoraConfig(task_type=task))
            expert.save_pretrained(given["adapters"][name])
    make = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind.upper())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(plain, make(task_type=task, **given))


@pytest.fixture(params=["llama", "t5"])
def backbone(request, make_tiny):
    smaller = {"num_layers": 1, "num_decoder_layers": 1} if request.param == "t5" else {}
    return make_tiny(request.param, **smaller).model_copy(update={"dtype": DType.BF16})


@pytest.mark.parametrize("kind", KINDS)
def test_without_data_it_is_made_as_peft_makes_it(kind, backbone, attach, tmp_path):
    """Shapes, dtypes, ties, and what trains: the count is peft's own."""
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    refusals = NOT_ON_ENCODER_DECODERS if backbone.family == "t5" else {}
    if kind in refusals:
        with pytest.raises(UsageError, match=refusals[kind]):
            attach(spec_of(kind), backbone, device="meta")
        if kind == "xlora":
            with pytest.raises(ValueError, match="unexpected keys"):  # of experts that peft saved
                by_peft_itself(kind, backbone, tmp_path)
        return
    theirs = by_peft_itself(kind, backbone, tmp_path)
    ours = attach(spec_of(kind), backbone, device="meta").model
    if kind not in BY_WEIGHTS:
        assert made_of(ours) == made_of(theirs)
    trained = sum(parameter.numel() for parameter in trainable(ours))
    assert trained == theirs.get_nb_trainable_parameters()[0] > 0


BYTE_FOR_BYTE = [
    "peft:adalora",
    "peft:boft",
    "peft:c3a[block_size=16]",
    "peft:delora",
    "peft:hra",
    "peft:ia3",
    "peft:loha",
    "peft:lokr[r=4]",
    "peft:lora[use_dora=true]",
    "peft:oft[oft_block_size=16]",
    "peft:randlora",
    "peft:unilora",
    "peft:vera",
]


@pytest.mark.parametrize("spec", BYTE_FOR_BYTE)
def test_fake_and_real_tensors_agree_in_every_byte(spec, make_tiny, attach, ledger_of):
    """The same stream of allocations and frees, in the same order, on meta and on the CPU."""
    backbone = make_tiny("llama")
    fake = ledger_of(attach(spec, backbone, device="meta"), device="meta", cuda=False)
    real = ledger_of(attach(spec, backbone, device="cpu"), device="cpu", cuda=False)
    assert fake.events == real.events
    assert fake.sizes == real.sizes
    assert fake.windows == real.windows


PROMPT_TOKENS = 3 * 20 * 8  # of each example, int64
MOVED_TO_THE_DEVICE = {
    "peft:cartridge": 0,
    "peft:fourierft[n_frequency=100]": 0,  # gone before the peak, as are waveft's
    "peft:multitask_prompt_tuning": PROMPT_TOKENS,
    "peft:poly": 0,
    "peft:prefix_tuning": PROMPT_TOKENS,
    "peft:trainable_tokens": 0,
    "peft:waveft[n_frequency=100]": 0,
}


@pytest.mark.parametrize("spec", MOVED_TO_THE_DEVICE)
def test_those_that_make_masks_and_indices_on_the_host_copy_them(
    spec, make_tiny, attach, ledger_of, peaks_of
):
    """To any device but the CPU itself."""
    backbone, copied = make_tiny("llama"), MOVED_TO_THE_DEVICE[spec]
    fake = ledger_of(attach(spec, backbone, device="meta"), device="meta", cuda=False)
    real = ledger_of(attach(spec, backbone, device="cpu"), device="cpu", cuda=False)
    fake_peaks, real_peaks = peaks_of(fake, step=1), peaks_of(real, step=1)
    for phase in (Phase.FORWARD, Phase.BACKWARD):
        assert fake_peaks[phase] == real_peaks[phase] + copied


def test_the_page_says_of_every_type_whether_it_runs(make_tiny, attach, ledger_of):
    """Those with a reason on the page are those that fail here, on a tiny backbone."""
    rows = re.findall(r"^\| `peft:(\w+)` \|(.*)\|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert [kind for kind, _, _ in rows] == KINDS
    head_sizes = {"head_dim": 8}  # adaption_prompt takes the heads to be as wide as the model
    backbone = make_tiny("llama", **head_sizes)
    cannot = []
    for kind in KINDS:
        if kind in NEEDS and not find_spec(NEEDS[kind]):
            continue
        try:
            ledger_of(attach(spec_of(kind), backbone, device="meta"), steps=1)
        except (UsageError, NotImplementedError):
            cannot.append(kind)
    assert cannot == [kind for kind, _, reason in rows if reason.strip()]


@pytest.fixture
def folder(tmp_path):
    def write(**fields):
        (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
        return f"peft:{tmp_path}"

    return write


def choice_of(spec):
    ((_, choice),) = method_spec.parse_specs(spec)
    return choice


def test_a_folder_is_its_type_with_its_values(folder):
    address = folder(peft_type="VERA", r=16, target_modules=["q"], peft_version="9", revision=None)
    assert choice_of(address) == choice_of("peft:vera[r=16,target_modules=q]")
    assert choice_of(f"{address}[r=4]") == choice_of("peft:vera[r=4,target_modules=q]")
    assert choice_of(f"{address}/adapter_config.json") == choice_of(address)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"peft_type": "VERA", "rank": 4}, ["adapter_config.json", "vera", "'rank'"]),
        ({"peft_type": "VERA", "r": "four"}, ["adapter_config.json", "r: ", "'four'"]),
        ({"peft_type": "VERRA"}, ["'verra'", "did you mean vera"]),
        ({"r": 4}, ["adapter_config.json", "peft_type"]),
    ],
)
def test_a_bad_folder_is_told_in_one_line(folder, fields, told):
    with pytest.raises(UsageError) as refusal:
        choice_of(folder(**fields))
    assert [part for part in told if part not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("peft:verra", ["'verra'", "did you mean vera"]),
        ("peft:no/where", ["cannot read no/where"]),
        ("peft:vera[rank=4]", ["peft:vera", "'rank'", "r, target_modules"]),
        ("peft:lora[bias=some]", ["peft:lora", "bias", "'some'"]),
        ("peft:lora[rank_pattern={q]", ["peft:lora", "rank_pattern", "JSON"]),
        ("peft:oft[r=8,oft_block_size=3]", ["peft:oft", "r (8)", "oft_block_size (3)"]),
    ],
)
def test_a_bad_request_is_told_in_one_line(spec, told):
    with pytest.raises(UsageError) as refusal:
        choice_of(spec)
    assert [part for part in told if part not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("peft:vera[target_modules=nothing]", ["peft:vera", "tiny-t5", "'nothing'", "wi, wo"]),
        ("peft:c3a[block_size=7]", ["peft:c3a", "block size", "7"]),
        ("peft:adaption_prompt", ["peft:adaption_prompt", "'t5'"]),
    ],
)
def test_what_does_not_fit_the_backbone_is_told_in_one_line(spec, told, make_tiny_t5, attach):
    with pytest.raises(UsageError) as refusal:
        attach(spec, make_tiny_t5(), device="meta")
    assert [part for part in told if part not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value)


NEEDS_SCIPY = pytest.mark.skipif(find_spec("scipy") is None, reason="peft's LoftQ needs scipy")
INITIALISATIONS = ["gaussian", "eva", "olora", "pissa", "pissa_niter_4", "orthogonal", "lora_ga"]


@pytest.mark.parametrize("kind", INITIALISATIONS)
def test_every_initialisation_of_lora_is_as_large(kind, make_tiny, attach):
    """Those that look at weights or data change values, not shapes."""
    plain = attach("peft:lora", make_tiny("llama"), device="meta").model
    other = attach(f"peft:lora[init_lora_weights={kind}]", make_tiny("llama"), device="meta").model
    assert made_of(other) == made_of(plain)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("peft:lora[init_lora_weights=corda]", "preprocess_corda"),
        ("peft:lora[init_lora_weights=bogus]", "'bogus'"),
        pytest.param("peft:lora[init_lora_weights=loftq]", "loftq_config", marks=NEEDS_SCIPY),
        pytest.param(
            'peft:lora[init_lora_weights=loftq,loftq_config={"bits":4}]',
            "'bits'",
            marks=NEEDS_SCIPY,
        ),
        ('peft:xlora[adapters={"0":"no/where"}]', "no/where"),
        ('peft:xlora[adapters={"0":"peft:lora[rank=4]"}]', "'rank'"),
    ],
)
def test_what_peft_cannot_make_of_its_fields_is_told_in_one_line(
    spec, told, make_tiny, attach, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError) as refusal:
        attach(spec, make_tiny("llama"), device="meta")
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_new_experts_are_adapters_of_their_own_fields(make_tiny, attach):
    spec = 'peft:xlora[adapters={"0":"peft:lora[r=2,lora_alpha=4]","1":"peft:lora[r=3]"}]'
    model = attach(spec, make_tiny("llama"), device="meta").model
    ranks = {name: p.shape[0] for name, p in model.named_parameters() if "lora_A" in name}
    assert {name.split(".")[-2]: rank for name, rank in ranks.items()} == {"0": 2, "1": 3}


def test_targets_that_are_left_to_peft_are_in_the_record(make_tiny):
    """Peft's own where it has some for the model's type, and all linear layers where not."""

    def targets(spec, family):
        return method_spec.fitted(choice_of(spec), make_tiny(family)).config["target_modules"]

    assert targets("peft:vera", "t5") == ["q", "v"]
    assert targets("peft:vera", "llama") == ["q_proj", "v_proj"]
    assert targets("peft:vera[target_modules=k]", "t5") == ["k"]
    assert targets("peft:vera[target_modules=all-linear]", "t5") == "all-linear"
    assert targets("peft:osf", "t5") == "all-linear"
    assert targets("peft:ln_tuning", "bert") == ["LayerNorm"]


def test_fields_are_written_as_json_has_them():
    config = choice_of(
        'peft:lora[r=4,use_dora=true,rank_pattern={"q": 2},layers_to_transform=0,'
        "target_modules=q,v]"
    ).config
    assert (config["r"], config["use_dora"]) == (4, True)
    assert config["rank_pattern"] == {"q": 2}
    assert config["target_modules"] == ["q", "v"]
    assert config["layers_to_transform"] == 0
