"""Autocast on meta tensors: CUDA's lists, the casts that are kept, and real CPU runs."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from petl_bench.profilers.simulated import autocast
from petl_bench.profilers.simulated.autocast import autocast_on_meta
from petl_bench.profilers.simulated.cuda_semantics import CudaKernels
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.profilers.simulated.recomputation import modes_in_recomputation
from petl_bench.record import Phase

HEADER = Path(torch.__file__).parent / "include/ATen/autocast_mode.h"


def meta(*shape, dtype=torch.float32, grad=False):
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


@pytest.fixture
def bf16():
    with autocast_on_meta(), torch.autocast("meta", dtype=torch.bfloat16):
        yield


@pytest.mark.parametrize(
    ("macro", "ours"),
    [
        ("LOWER_PRECISION_FP", autocast.LOWER_PRECISION),
        ("FP32", autocast.FP32),
        ("FP32_SET_OPT_DTYPE", autocast.FP32_BY_OPTION),
        ("PROMOTE", autocast.PROMOTE),
    ],
)
def test_the_lists_are_those_of_the_installed_torch(macro, ours):
    text = HEADER.read_text(encoding="utf-8").replace("\\\n", " ")
    (body,) = re.findall(rf"#define AT_FORALL_{macro}\(_\)(.*)", text)
    theirs = [".".join(found.split(", ")) for found in re.findall(r"_\(([\w, ]+)\)", body)]
    assert ours.split() == theirs


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(
    ("operator", "dtype"),
    [
        (lambda x, w: x @ w, torch.bfloat16),  # lower precision
        (F.linear, torch.bfloat16),
        (lambda x, w: torch.einsum("ij,jk->ik", x, w), torch.bfloat16),
        (lambda x, w: (x @ w) * x, torch.float32),  # in no list: by promotion
        (lambda x, w: (x @ w).relu(), torch.bfloat16),
        (lambda x, w: (x @ w).softmax(-1), torch.float32),  # fp32 unless said
        (lambda x, w: (x @ w).softmax(-1, dtype=torch.float16), torch.float16),
        (lambda x, w: (x @ w).sum(), torch.float32),
        (lambda x, w: (x @ w).pow(2), torch.float32),  # fp32
        (lambda x, w: (x @ w).norm(), torch.float32),
        (lambda x, w: F.layer_norm(x @ w, [4]), torch.float32),
        (lambda x, w: torch.addcmul(x, x @ w, x @ w), torch.float32),  # the widest
        (lambda x, w: torch.addcmul(x @ w, x @ w, x @ w), torch.bfloat16),
        (lambda x, w: x.double() @ w.double(), torch.float64),  # doubles are left alone
    ],
)
def test_an_operator_runs_in_the_type_of_its_list(operator, dtype):
    assert operator(meta(4, 4), meta(4, 4)).dtype is dtype


@pytest.mark.usefixtures("bf16")
def test_where_it_is_switched_off_and_outside_nothing_is_cast():
    x = meta(4, 4)
    assert torch.is_autocast_enabled("meta")
    with torch.autocast("meta", enabled=False):
        assert (x @ x).dtype is torch.float32
        assert not torch.is_autocast_enabled("meta")
    assert (x @ x).dtype is torch.bfloat16


def test_after_it_nothing_is_cast_and_torch_is_as_it_was():
    plain = torch.autocast
    with autocast_on_meta(), torch.autocast("meta"):
        pass
    assert torch.autocast is plain
    assert (meta(4, 4) @ meta(4, 4)).dtype is torch.float32


def casts(*weights, uses=3):
    """Copies that `uses` products with each of `weights` make of them."""
    x = meta(2, 8, dtype=torch.bfloat16)
    with autocast_on_meta(), Ledger() as ledger, torch.autocast("meta", dtype=torch.bfloat16):
        for weight in weights:
            for _ in range(uses):
                F.linear(x, weight)
    names = [ledger.operators[event] for event in ledger.events if event >= 0]
    return names.count("aten::_to_copy")


def test_the_cast_of_a_weight_that_trains_is_kept_and_of_others_is_not():
    """autocast_mode.cpp, cached_cast: fp32 leaves that require a gradient, and no views."""
    trains, frozen = nn.Parameter(meta(8, 8)), meta(8, 8)
    assert casts(trains) == 1
    assert casts(frozen) == 3
    assert casts(trains, frozen) == 4
    assert casts(trains * 1) == 3


def test_kept_casts_go_when_the_outermost_autocast_ends():
    weight, x = nn.Parameter(meta(8, 8)), meta(2, 8)
    with autocast_on_meta(), Ledger() as ledger:
        with torch.autocast("meta"):
            with torch.autocast("meta"), torch.no_grad():
                F.linear(x, weight)
            assert ledger.live_bytes() == 8 * 8 * 2
        assert ledger.live_bytes() == 0


class Block(nn.Module):
    """Attention by hand and a feed-forward part, of operators that both lists treat alike."""

    def __init__(self, *, frozen):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        if frozen:
            self.q.requires_grad_(requires_grad=False)
            self.up.requires_grad_(requires_grad=False)

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-1, -2)
        weights = F.softmax(scores.float(), -1).type_as(scores)
        x = x + self.o(weights @ self.v(x))
        return x + self.down(F.relu(self.up(x)))


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_real_cpu_run_has_the_same_stream(dtype, frozen, recomputed):
    streams = []
    for device in ("cpu", "meta"):
        block, x = Block(frozen=frozen).to(device), torch.zeros(3, 5, 8, device=device)
        ledger = Ledger(frozenset({"cpu", "meta"}), cuda=False)
        ledger.adopt([*block.parameters(), x], "input")
        with autocast_on_meta(), modes_in_recomputation(), ledger:
            with torch.autocast(device, dtype=dtype):
                for _ in range(2):
                    x = checkpoint(block, x, use_reentrant=False) if recomputed else block(x)
                loss = x.mean()
            ledger.begin(Phase.BACKWARD)
            loss.backward()
            del loss, x
        streams.append(list(story(ledger)))
    assert streams[0] == streams[1]


def story(ledger):
    """Allocations in order; the frees between two of them, whose order is a hash table's."""
    freed = []
    for event in ledger.events:
        if event >= 0:
            yield sorted(freed), ledger.operators[event], ledger.sizes[event]
            freed = []
        else:
            freed.append(~event)
    yield sorted(freed)


def test_attention_is_cast_for_once_and_runs_the_kernel_of_the_lower_type():
    """fp32 would run the memory-efficient kernel; bf16 without a mask is flash's."""
    q, k, v = (meta(2, 4, 160, 64, grad=True) for _ in range(3))
    with autocast_on_meta(), CudaKernels(), Ledger() as ledger, torch.autocast("meta"):
        out = F.scaled_dot_product_attention(q, k, v)
    names = [ledger.operators[event] for event in ledger.events if event >= 0]
    assert out.dtype is torch.bfloat16
    assert any("flash" in name for name in names)
    assert names.count("aten::_to_copy") == 3


def test_from_fp16_a_softmax_to_fp32_makes_no_copy_first():
    """SoftMax.cpp, softmax: half_to_float, for fp16 alone."""
    x = meta(4, 100, dtype=torch.float16)
    with autocast_on_meta(), Ledger() as ledger, torch.autocast("meta", dtype=torch.float16):
        F.softmax(x, -1)
        F.log_softmax(x, -1)
    made = [ledger.sizes[event] for event in ledger.events if event >= 0]
    assert made == [1600, 1600]


@pytest.mark.usefixtures("bf16")
def test_transformers_may_switch_it_off_for_a_stretch():
    """Some norms are computed in fp32 so, though meta is no device to transformers."""
    from transformers.models.nemotron import modeling_nemotron

    with autocast_on_meta(), modeling_nemotron.maybe_autocast("meta", enabled=False):
        assert (meta(4, 4) @ meta(4, 4)).dtype is torch.float32
