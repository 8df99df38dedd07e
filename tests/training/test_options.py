"""Each option of a training step: by hand on a small model, and beside real CPU runs."""

import pytest
import torch
from torch import nn

from petl_bench.assembly import unsupported
from petl_bench.case import Autocast, Case, DType, Optimizer, Workload
from petl_bench.method_spec import resolve
from petl_bench.profilers.simulated.autocast import autocast_on_meta
from petl_bench.profilers.simulated.cuda_semantics import CudaKernels, foreach_by_default
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category, Phase, PhaseMemory
from petl_bench.steps import Step

SMALL = {"batch_size": 4, "source_length_tokens": 7, "target_length_tokens": 5}
OPTIONS = [
    {"checkpointing": True},
    {"accumulation_steps": 2},
    {"zero_grad": "keep"},
    {"zero_grad": "keep", "accumulation_steps": 2},
    {"clip_grad_norm": None},
    {"optimizer": "adamw_loop"},
    {"optimizer": "adamw_8bit"},
    {"optimizer": "adafactor"},
    {"optimizer": "sgd"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("spec", ["full", "lora"])
def test_fake_and_real_tensors_agree_in_every_byte(spec, options, make_tiny_t5, attach, ledger_of):
    backbone = make_tiny_t5(num_layers=2, num_decoder_layers=2)
    workload = Workload(**SMALL, **options)
    fake, real = (
        ledger_of(attach(spec, backbone, device=device), workload, device=device, cuda=False)
        for device in ("meta", "cpu")
    )
    assert fake.events == real.events
    assert fake.sizes == real.sizes
    assert fake.windows == real.windows


# --- an MLP by hand ------------------------------------------------------------------------------


class Mlp(nn.Module):
    """W1 [8, 4], relu, W2 [4, 8]; 128 bytes each in fp32."""

    def __init__(self, device="meta"):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8, bias=False, device=device),
            nn.ReLU(),
            nn.Linear(8, 4, bias=False, device=device),
        )

    def forward(self, x):
        return {"loss": self.layers(x).sum()}


ALWAYS = 2 * 128 + 16 * 4 * 4  # the weights, and a batch of 16


def run_mlp(peaks_of, *, batch=16, **options):
    """Bytes at the peak of each phase of the second step."""
    workload = Workload(
        batch_size=16, clip_grad_norm=None, **{"optimizer": Optimizer.SGD, **options}
    )
    model = Mlp()
    x = torch.empty(batch, 4, device="meta")
    ledger = Ledger()
    ledger.adopt([*model.parameters(), x], Category.INPUT)
    with foreach_by_default(), autocast_on_meta(), CudaKernels(), ledger:
        step = Step(model, workload)
        for number in range(2):
            step.run({"x": x}, _Phases(ledger, number))
    return peaks_of(ledger, step=1)


class _Phases:
    def __init__(self, ledger, step):
        self.ledger, self.step = ledger, step

    def phase(self, phase):
        from contextlib import contextmanager

        @contextmanager
        def inside():
            start = self.ledger.begin(phase)
            yield
            self.ledger.end(self.step, phase, start)

        return inside()


def test_nothing_asked_for(peaks_of):
    """Forward: hidden 512, relu 512; the output 256 comes when hidden has gone, the loss 4.

    Backward: relu 512, loss 4, its gradient 4, W2's gradient 128, relu's 512, hidden's 512.
    SGD: the gradients.
    """
    assert run_mlp(peaks_of) == {
        Phase.FORWARD: ALWAYS + 1024,
        Phase.BACKWARD: ALWAYS + 512 + 4 + 4 + 128 + 512 + 512,
        Phase.OPTIMIZER_STEP: ALWAYS + 256,
    }


def test_autocast_halves_activations_and_keeps_casts_of_weights(peaks_of):
    """Forward: a cast of W1 64, which is kept, and of the batch 128; hidden 256, relu 256.

    Then hidden goes; W2's cast 64; the output 128, the loss 4, for sum is in fp32 (a fp32 copy
    is not made: sum converts as it reads). Highest with hidden, relu and what was cast by then.
    Backward starts with relu 256, both casts: the batch's 128 for W1's gradient, W2's 64 for
    relu's; W1's cast 64 went with the outermost autocast. The loss 4 and its gradient 4, its
    cast to the output's type 2; W2's gradient in bf16 64, relu's 256; W2's in fp32 128 ...
    """
    seen = run_mlp(peaks_of, autocast=Autocast.BF16)
    assert seen[Phase.FORWARD] == ALWAYS + 64 + 128 + 256 + 256
    assert seen[Phase.OPTIMIZER_STEP] == ALWAYS + 256


def test_accumulated_parts_are_small_and_gradients_stay_between_them(peaks_of):
    """Two parts of 8: activations halve; forward and backward find the first part's gradients."""
    parts = run_mlp(peaks_of, accumulation_steps=2, batch=8)
    always = ALWAYS - 128
    assert parts[Phase.OPTIMIZER_STEP] == always + 256
    assert parts[Phase.FORWARD] == always + 256 + 512


@pytest.mark.parametrize("spec", ["full", "lora", "adapter", "lst[reduction=2,keep=all]"])
def test_recomputed_layers_give_the_same_gradients(spec, make_tiny_t5, attach, small_workload):
    backbone = make_tiny_t5(num_layers=2, num_decoder_layers=2, dropout_rate=0.0)
    found = []
    for recomputed in (False, True):
        built = attach(spec, backbone)
        if recomputed:
            built.method.checkpoint(built.model)
        built.model.train()
        built.model(**built.batch(small_workload))["loss"].backward()
        found.append([p.grad for p in built.model.parameters() if p.requires_grad])
    torch.testing.assert_close(*found)


def test_a_phase_that_comes_twice_has_its_highest_peak_and_its_last_end():
    first, second = (
        PhaseMemory(
            peak_allocated_bytes=peak,
            peak_reserved_bytes=reserved,
            end_allocated_bytes=end,
            by_category={Category.INPUT: peak},
            elapsed_s=0.5,
        )
        for peak, reserved, end in ((100, 200, 50), (80, 300, 40))
    )
    both = first.then(second)
    assert both.peak_allocated_bytes == 100
    assert both.by_category == {Category.INPUT: 100}
    assert (both.peak_reserved_bytes, both.end_allocated_bytes) == (300, 40)
    assert both.elapsed_s == 1.0
    assert both.peak_requested_bytes is None


@pytest.mark.parametrize(("dtype", "told"), [("fp16", "scales the loss"), ("fp32", None)])
def test_a_scaled_loss_is_not_for_weights_of_fp16(dtype, told, make_tiny_t5):
    backbone = make_tiny_t5().model_copy(update={"dtype": DType(dtype)})
    case = Case(
        backbone=backbone,
        method=resolve("lora", {}),
        workload=Workload(batch_size=2, autocast="fp16"),
    )
    reason = unsupported(case)
    assert reason is None if told is None else told in reason
