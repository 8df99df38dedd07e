"""Layers and optimizer states of few bits against what bitsandbytes stores, byte for byte."""

import pytest
import torch
from torch import nn

from petl_bench.case import Quantization
from petl_bench.low_bit.adamw import SizedAdamW8bit
from petl_bench.low_bit.linear import SizedInt8, SizedNf4, quantise

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

SHAPES = [(64, 128), (300, 200), (10, 7), (1024, 3)]  # inputs, outputs: whole blocks and parts


def forms(tensors):
    """What a copy of each tensor would take: dtype, shape and bytes."""
    return {name: (x.dtype, tuple(x.shape), x.nbytes) for name, x in tensors.items()}


def held(layer):
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def on_meta(shape, dtype):
    return nn.Linear(*shape, bias=True, dtype=dtype, device="meta")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_has_the_librarys_tensors(shape, double, dtype):
    plain = nn.Linear(*shape, dtype=dtype)
    real = bitsandbytes.nn.Linear4bit(
        *shape, compute_dtype=dtype, compress_statistics=double, quant_type="nf4"
    )
    real.load_state_dict(plain.state_dict())
    real.to("cpu")  # quantises
    state = real.weight.quant_state
    stored = {"weight": real.weight, "bias": real.bias.to(dtype)}
    stored |= {"absmax": state.absmax, "code": state.code}
    assert (state.blocksize, state.quant_type, state.nested) == (64, "nf4", double)
    if double:
        assert state.state2.blocksize == 256
        stored["absmax_absmax"] = state.state2.absmax
        stored["absmax_mean"] = state.offset
        stored["absmax_code"] = state.state2.code
    with torch.device("meta"):
        ours = SizedNf4(on_meta(shape, dtype), double=double)
    assert forms(held(ours)) == forms(stored)


def test_every_layer_has_a_table_of_its_own_beside_the_librarys():
    layers = [
        bitsandbytes.nn.Linear4bit(64, 64, compress_statistics=True, quant_type="nf4").to("cpu")
        for _ in range(2)
    ]
    states = [layer.weight.quant_state for layer in layers]
    tables = [
        *(state.state2.code for state in states),
        bitsandbytes.functional.name2qmap["dynamic"],
    ]
    assert len({table.data_ptr() for table in tables}) == 3
    assert len({state.code.data_ptr() for state in states}) == 2

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

        def get_output_embeddings(self):
            return None

    with torch.device("meta"):
        model = Two()
        quantise(model, Quantization.NF4_DOUBLE)
    sizes = [buffer.numel() for buffer in model.buffers()]
    assert sizes.count(256) == len(tables)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_has_the_librarys_tensors(shape):
    real = bitsandbytes.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
    real.load_state_dict(nn.Linear(*shape).state_dict())
    real.to("cpu")
    stored = {"weight": real.weight, "bias": real.bias, "SCB": real.weight.SCB}
    assert real.weight.CB.data_ptr() == real.weight.data_ptr()  # one storage by two names
    with torch.device("meta"):
        ours = SizedInt8(on_meta(shape, torch.float32))
    assert forms(held(ours)) == forms(stored)


def test_int8_keeps_its_input_alone():
    """What its node for CUDA keeps of a pass: the input as it came, no row of bytes."""
    layer = bitsandbytes.nn.Linear8bitLt(64, 128, bias=False, has_fp16_weights=False, threshold=6.0)
    layer.to("cpu")
    layer.init_8bit_state()
    x = torch.randn(4, 64, dtype=torch.float16, requires_grad=True)
    node = bitsandbytes.autograd._functions.MatMul8bitLt
    made = node.apply(x, layer.weight, None, None, layer.state).grad_fn
    kept = [tensor for tensor in made.tensors if torch.is_tensor(tensor) and tensor.numel()]
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


@pytest.mark.parametrize("elements", [100, 4095, 4096, 8200])
def test_8_bit_states_are_the_librarys(elements):
    parameter = nn.Parameter(torch.randn(elements))
    parameter.grad = torch.ones_like(parameter)
    real = bitsandbytes.optim.AdamW8bit([parameter])
    real.init_state(real.param_groups[0], parameter, 0, 0)
    ours = SizedAdamW8bit([parameter], lr=1e-3)
    ours.step()
    stored, counted = (
        {name: x for name, x in optimizer.state[parameter].items() if torch.is_tensor(x)}
        for optimizer in (real, ours)
    )
    assert forms(counted) == forms(stored)


MODELS = {
    "BertForSequenceClassification": {"num_attention_heads": 4},
    "RobertaForMaskedLM": {"num_attention_heads": 4},
    "LlamaForCausalLM": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "T5ForConditionalGeneration": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 1},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_layers_are_converted(name, tmp_path):
    """But for a task head, which would not train: transformers are told to skip it."""
    import transformers

    kind = getattr(transformers, name)
    shape = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
    shape = MODELS[name] if name.startswith("T5") else shape | MODELS[name]
    plain = kind(kind.config_class(**shape))
    plain.save_pretrained(tmp_path)
    head = getattr(plain, "classifier", None)
    quantise(plain, Quantization.NF4, head)
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        llm_int8_skip_modules=None if head is None else ["classifier"],
    )
    real = kind.from_pretrained(tmp_path, quantization_config=config)
    low = {n for n, m in real.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert low
    assert low == {n for n, m in plain.named_modules() if isinstance(m, SizedNf4)}
