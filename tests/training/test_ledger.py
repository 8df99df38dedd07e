"""The ledger against bytes added up by hand, and against runs with real tensors."""

import gc

import pytest
import torch
from torch import nn

from petl_bench.profilers.simulated.cuda_semantics import CudaKernels, foreach_by_default
from petl_bench.profilers.simulated.ledger import Ledger
from petl_bench.record import Category, Phase
from petl_bench.training import make_optimizer, training_step


def forward_backward(ledger: Ledger, model: nn.Module, batch: torch.Tensor) -> None:
    with ledger:
        start = ledger.begin(Phase.FORWARD)
        loss = model(batch).sum()
        ledger.end(0, Phase.FORWARD, start)
        start = ledger.begin(Phase.BACKWARD)
        loss.backward()
        del loss
        ledger.end(0, Phase.BACKWARD, start)


def story(ledger: Ledger) -> list[tuple[str, int]]:
    """Every allocation and free as (+ or -, operator, bytes), in order."""
    told = []
    for event in ledger.events:
        index = event if event >= 0 else ~event
        told.append(("+" if event >= 0 else "-", ledger.operators[index], ledger.sizes[index]))
    return told


def test_a_linear_layers_every_byte_by_hand():
    """A weight of 2 x 3 and a batch of 4 x 3, fp32.

    Forward: the transposed weight is a view; mm makes 4 x 2 floats, 32 bytes; their sum 4.
    Once the sum is there nothing needs the product, so it goes. Backward: the gradient of the
    sum, 4 bytes, is only expanded; the weight's gradient is 2 x 3 floats, 24 bytes, for which
    cuBLAS reads a copy of the expanded one, 32. The loss goes last, when its name does.
    """
    model = nn.Linear(3, 2, bias=False, device="meta")
    batch = torch.empty(4, 3, device="meta")
    ledger = Ledger()
    ledger.adopt(model.parameters(), Category.PARAMETER)
    ledger.adopt([batch], Category.INPUT)
    forward_backward(ledger, model, batch)
    assert story(ledger) == [
        ("+", "(loaded)", 24),
        ("+", "(loaded)", 48),
        ("+", "aten::mm", 32),
        ("+", "aten::sum", 4),
        ("-", "aten::mm", 32),
        ("+", "aten::ones_like", 4),
        ("+", "aten::mm", 24),
        ("+", "aten::mm", 32),
        ("-", "aten::mm", 32),
        ("-", "aten::ones_like", 4),
        ("-", "aten::sum", 4),
    ]
    assert ledger.live_bytes() == 24 + 48 + 24
    assert ledger.flops == 2 * (2 * 4 * 3 * 2)  # forward, and the weight's gradient


def test_a_relu_is_kept_for_backward_and_its_input_is_not():
    """Two layers 3 -> 5 -> 2 on 4 examples: 80 bytes before the relu, 80 after, 32 out.

    relu keeps its result, which the second layer needs too: one storage, counted once.
    """
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False)).to(
        "meta"
    )
    batch = torch.empty(4, 3, device="meta")
    ledger = Ledger()
    ledger.adopt([*model.parameters(), batch], Category.INPUT)
    with ledger:
        model(batch)
    assert story(ledger)[3:7] == [
        ("+", "aten::mm", 80),
        ("+", "aten::relu", 80),
        ("-", "aten::mm", 80),
        ("+", "aten::mm", 32),
    ]


def test_views_and_in_place_operators_allocate_nothing():
    x = torch.empty(4, 6, device="meta")
    ledger = Ledger()
    ledger.adopt([x], Category.INPUT)
    with ledger:
        y = x.view(6, 4).t()[1:].expand(2, 3, 6)
        y.add_(1)
        x.relu_()
    assert story(ledger) == [("+", "(loaded)", 96)]


def test_a_storage_lives_as_long_as_its_last_view():
    with Ledger() as ledger:
        x = torch.zeros(8, device="meta")
        y = x[2:4]
        del x
        assert ledger.live_bytes() == 32
        del y
    assert ledger.live_bytes() == 0


@pytest.mark.parametrize("fan_out", [2, 3])
def test_gradients_of_a_fan_out_are_summed_in_place(fan_out):
    """k uses of x: k gradients of 64 bytes, never more than two alive, and no third for a sum."""
    x = torch.empty(16, device="meta", requires_grad=True)
    ledger = Ledger()
    with ledger:
        y = sum((x * 1.0) * factor for factor in range(fan_out))
        ledger.begin(Phase.BACKWARD)
        before = len(ledger.events)
        y.sum().backward()
    made = [ledger.operators[event] for event in ledger.events[before:] if event >= 0]
    assert any(name.startswith("aten::mul") for name in made)
    assert not any(name.startswith("aten::add") for name in made)


def test_a_gradient_that_is_shared_is_summed_out_of_place():
    """y + y @ w hands the same expanded gradient to both branches, so neither may be reused."""
    x = torch.empty(4, 4, device="meta", requires_grad=True)
    w = torch.empty(4, 4, device="meta")
    ledger = Ledger()
    with ledger:
        y = x * 2
        total = (y + y @ w).sum()
        ledger.begin(Phase.BACKWARD)
        before = len(ledger.events)
        total.backward()
    made = [ledger.operators[event] for event in ledger.events[before:] if event >= 0]
    assert made.count("aten::add.Tensor") == 1


SPECS = [
    "full",
    "adapter",
    "compacter",
    "lora",
    "lora[biases=all]",
    "bitfit",
    "ia3",
    "prefix",
    "theseus",
    "lst[reduction=2]",
]


@pytest.mark.parametrize("spec", SPECS)
def test_fake_and_real_tensors_agree_in_every_byte(spec, make_tiny_t5, attach, ledger_of):
    """The same stream of allocations and frees, in the same order, on meta and on the CPU."""
    backbone = make_tiny_t5()
    fake = ledger_of(attach(spec, backbone, device="meta"), device="meta", cuda=False)
    real = ledger_of(attach(spec, backbone, device="cpu"), device="cpu", cuda=False)
    assert fake.events == real.events
    assert fake.sizes == real.sizes
    assert fake.windows == real.windows


WITHOUT_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "bart": {"dropout": 0.0},
    "qwen2": {},
}


@pytest.mark.parametrize("family", WITHOUT_DROPOUT)
@pytest.mark.parametrize("spec", ["full", "lora", "prefix", "lst[reduction=2]"])
def test_fake_and_real_tensors_agree_in_every_family(spec, family, make_tiny, attach, ledger_of):
    fake = ledger_of(attach(spec, make_tiny(family), device="meta"), device="meta", cuda=False)
    real = ledger_of(attach(spec, make_tiny(family), device="cpu"), device="cpu", cuda=False)
    assert (fake.events, fake.sizes, fake.windows) == (real.events, real.sizes, real.windows)


@pytest.mark.parametrize(("spec", "tokens"), [("prompt", 100), ("ptuning[encoder=mlp]", 9)])
def test_fake_and_real_prompts_agree_but_for_what_moves_to_the_device(  # noqa: PLR0917
    spec, tokens, make_tiny_t5, attach, ledger_of, peaks_of, small_workload
):
    """Peft has the prompt's mask and tokens on the host: copies on any device but the CPU.

    The tokens of each example, int64, are there at the peaks.
    """
    fake = ledger_of(attach(spec, make_tiny_t5(), device="meta"), device="meta", cuda=False)
    real = ledger_of(attach(spec, make_tiny_t5(), device="cpu"), device="cpu", cuda=False)
    assert len(fake.sizes) - len(real.sizes) == 4  # two a step
    fake_peaks, real_peaks = peaks_of(fake, step=1), peaks_of(real, step=1)
    copied = small_workload.batch_size * tokens * 8
    for phase in (Phase.FORWARD, Phase.BACKWARD):
        assert fake_peaks[phase] == real_peaks[phase] + copied


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        *(("t5", spec) for spec in (*SPECS, "prompt", "ptuning", "ptuning[encoder=mlp]")),
        *((family, spec) for family in WITHOUT_DROPOUT for spec in ("full", "lst[reduction=2]")),
    ],
)
def test_each_phase_peaks_where_torch_profiler_sees_it_peak_on_the_cpu(  # noqa: PLR0917
    family, spec, make_tiny, attach, ledger_of, peaks_of, small_workload, no_profiler, monkeypatch
):
    """An oracle that shares nothing: no dispatch mode, torch's own record of the allocator.

    Without dropout, whose CPU kernel makes temporaries that CUDA's does not. What is left are
    a few scalars inside CPU kernels.
    """
    # oneDNN would run P-tuning's LSTM in one call, with memory of its own.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    larger = {"dropout_rate": 0.0, "d_model": 64, "d_ff": 256, "vocab_size": 512}
    backbone = make_tiny(family, **WITHOUT_DROPOUT.get(family, larger))
    workload = small_workload.model_copy(
        update={"batch_size": 8, "source_length_tokens": 32, "target_length_tokens": 8}
    )
    # On the CPU nothing of a prompt's moves there from the host.
    device = "cpu" if spec.startswith("p") else "meta"
    ledger = ledger_of(attach(spec, backbone, device=device), workload, device=device, cuda=False)
    simulated = peaks_of(ledger, step=1)
    start = peaks_at_step_start(ledger, step=1)
    measured = profiled_peaks(attach(spec, backbone), workload, no_profiler)
    for phase, peak in measured.items():
        assert simulated[phase] - start == pytest.approx(peak, abs=512)


def peaks_at_step_start(ledger: Ledger, step: int) -> int:
    """Requested bytes alive when `step` begins."""
    first = min(window.start for window in ledger.windows if window.step == step)
    return sum(
        ledger.sizes[event] if event >= 0 else -ledger.sizes[~event]
        for event in ledger.events[:first]
    )


def profiled_peaks(built, workload, no_profiler) -> dict[Phase, int]:
    """Bytes above the step's start at each phase's peak, by torch.profiler on real tensors."""
    built.model.train()
    batch = built.batch(workload)

    class Annotate:
        def phase(self, phase):
            return torch.profiler.record_function(f"phase:{phase}")

    gc.collect()
    gc.disable()
    try:
        with foreach_by_default("cpu"), CudaKernels():
            optimizer = make_optimizer(built.model, workload.optimizer)
            training_step(built.model, batch, optimizer, workload, no_profiler)
            activities = [torch.profiler.ProfilerActivity.CPU]
            with torch.profiler.profile(activities=activities, profile_memory=True) as run:
                training_step(built.model, batch, optimizer, workload, Annotate())
    finally:
        gc.enable()
    events = run.profiler.kineto_results.events()
    spans = {
        Phase(e.name().removeprefix("phase:")): (e.start_ns(), e.end_ns())
        for e in events
        if e.name().startswith("phase:")
    }
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peaks, live = dict.fromkeys(spans, 0), 0
    for at, change in changes:
        live += change
        for phase, (begin, end) in spans.items():
            if at < begin:
                peaks[phase] = live
            elif at <= end:
                peaks[phase] = max(peaks[phase], live)
    return peaks


def test_two_runs_give_the_same_stream(make_tiny_t5, attach, ledger_of):
    first, second = (
        ledger_of(attach("lst[reduction=2]", make_tiny_t5(), device="meta")) for _ in range(2)
    )
    assert (first.events, first.sizes) == (second.events, second.sizes)
