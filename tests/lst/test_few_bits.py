"""Ladders and LoRA beside backbones whose weights really have few bits, on the CPU."""

import copy

import pytest
import torch
from petl_bench.methods.lst import attach_lst, load_lst
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BitsAndBytesConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from petl_bench import registry
from petl_bench.backbones import ports_of

BITSANDBYTES = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4_double": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "int8": {"load_in_8bit": True},
}
TORCHAO = ("torchao-int8", "torchao-int4")
SIZES = {
    "dropout_rate": 0.0,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
}


def asked_for(name):
    if name in BITSANDBYTES:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
        return BitsAndBytesConfig(**BITSANDBYTES[name])
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    from transformers import TorchAoConfig

    # Packed int4 has kernels for accelerators alone; this is int4 of values in bytes.
    int4 = {"weight_dtype": torch.int4}
    eight = name == "torchao-int8"
    return TorchAoConfig(
        torchao.Int8WeightOnlyConfig() if eight else torchao.IntxWeightOnlyConfig(**int4)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = T5Config(vocab_size=99, decoder_start_token_id=0, pad_token_id=0, **SIZES)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=[*BITSANDBYTES, *TORCHAO])
def load(request, folder):
    """Factory: the same backbone, its weights of few bits."""
    config = asked_for(request.param)

    def from_folder():
        found = T5ForConditionalGeneration.from_pretrained(
            folder, quantization_config=copy.deepcopy(config)
        )
        weight = found.encoder.block[0].layer[0].SelfAttention.q.weight
        assert type(weight) is not torch.nn.Parameter
        return found

    return from_folder


def bytes_of(model):
    """Every tensor but those that train, statistics of few-bit weights included.

    In training mode: in evaluation on a CPU bitsandbytes packs 4-bit weights anew for its kernel.
    """
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        inner = getattr(parameter, "tensor_data_names", None)
        if inner is not None:  # torchao's
            found |= {f"{name}.{part}": getattr(parameter, part) for part in inner}
            continue
        found[name] = parameter.data
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found[f"{name}.absmax"] = state.absmax
            if state.nested:
                found[f"{name}.absmax_absmax"] = state.state2.absmax
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and hasattr(module.weight, "SCB"):
            # The first pass moves it from the weight to the layer.
            scales = module.weight.SCB
            found[f"{name}.SCB"] = module.state.SCB if scales is None else scales
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def trained(model, batch, steps=8):
    """Losses of a few steps on one batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_a_ladder_trains_and_the_backbones_bytes_stay(load, batch, tmp_path):
    model = attach_lst(load(), reduction=2, keep="all").train()
    before = bytes_of(model)
    losses = trained(model, batch)
    assert losses[-1] < losses[0] - 0.3
    after = bytes_of(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    model.save_pretrained(tmp_path)
    again = load_lst(load(), tmp_path)
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).logits, model.eval()(**batch).logits)


def test_lora_trains_and_the_backbones_bytes_stay(load, batch):
    lora = registry.get("lora")
    backbone = load()
    model = lora.attach(backbone, ports_of(backbone), lora.config(r=4, dropout=0)).train()
    before = bytes_of(model)
    losses = trained(model, batch)
    assert losses[-1] < losses[0]
    after = bytes_of(model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_ladder_from_an_unquantised_backbone_goes_beside_it(load, folder, batch, tmp_path):
    plain = T5ForConditionalGeneration.from_pretrained(folder)
    attach_lst(plain, reduction=2).save_pretrained(tmp_path)
    assert load_lst(load(), tmp_path)(**batch).loss.isfinite()


def test_a_task_head_of_few_bits_is_told(tmp_path):
    """Transformers convert it unless told otherwise."""
    config = asked_for("nf4")
    shape = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 4, "intermediate_size": 64}
    BertForSequenceClassification(BertConfig(**shape)).save_pretrained(tmp_path)
    kind = BertForSequenceClassification
    low = kind.from_pretrained(tmp_path, quantization_config=config)
    with pytest.raises(ValueError, match=r"task head has few bits.*llm_int8_skip_modules"):
        attach_lst(low, reduction=2)
    config = BitsAndBytesConfig(**BITSANDBYTES["nf4"], llm_int8_skip_modules=["classifier"])
    model = attach_lst(kind.from_pretrained(tmp_path, quantization_config=config), reduction=2)
    model.train()(
        input_ids=torch.arange(10).view(2, 5), labels=torch.tensor([0, 1])
    ).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
