"""Steps that train nothing: simulated beside real ones, and what they leave behind."""

import pytest
import torch

from petl_bench.case import Case, Mode, Workload
from petl_bench.method_spec import resolve
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.record import Category, Phase

SPECS = ["full", "lora", "adapter", "lst[reduction=2]"]
INFERENCE = Workload(mode="inference", batch_size=3, source_length_tokens=7, target_length_tokens=5)
GENERATE = INFERENCE.model_copy(update={"mode": Mode.GENERATE})
BEAMS = GENERATE.model_copy(update={"beams": 3})


def fake_and_real(spec, workload, make_tiny_t5, attach, ledger_of):
    return (
        ledger_of(
            attach(spec, make_tiny_t5(num_layers=2, num_decoder_layers=2), device=d),
            workload,
            device=d,
            cuda=False,
        )
        for d in ("meta", "cpu")
    )


@pytest.mark.parametrize("spec", SPECS)
def test_inference_on_fake_and_real_tensors_agrees_in_every_byte(
    spec, make_tiny_t5, attach, ledger_of
):
    fake, real = fake_and_real(spec, INFERENCE, make_tiny_t5, attach, ledger_of)
    assert fake.events == real.events
    assert fake.sizes == real.sizes
    assert fake.windows == real.windows


@pytest.mark.parametrize("workload", [GENERATE, BEAMS])
@pytest.mark.parametrize("spec", ["full", "lst[reduction=2]"])
def test_generation_on_fake_and_real_tensors_agrees_but_for_token_numbers(  # noqa: PLR0917
    spec, workload, make_tiny_t5, attach, ledger_of, peaks_of
):
    """Start and padding tokens, 8 bytes each, need no copy where the device is the host."""
    fake, real = fake_and_real(spec, workload, make_tiny_t5, attach, ledger_of)
    expected = peaks_of(real, step=1)
    assert peaks_of(fake, step=1) == {p: pytest.approx(n, abs=64) for p, n in expected.items()}


def test_beams_multiply_the_cache(make_tiny_t5, attach, ledger_of, peaks_of):
    """Of what decoding has beside the model, nearly all is there for each sequence."""
    greedy, beams = (
        ledger_of(
            attach("full", make_tiny_t5(num_layers=2, num_decoder_layers=2), device="meta"),
            workload,
            cuda=False,
        )
        for workload in (GENERATE, BEAMS)
    )
    loaded = sum(
        size
        for size, name in zip(greedy.sizes, greedy.operators, strict=True)
        if name == "(loaded)"
    )
    one, three = (peaks_of(ledger, step=1)[Phase.DECODE] - loaded for ledger in (greedy, beams))
    assert 2.5 * one < three < 4 * one


@pytest.mark.parametrize(
    ("workload", "phases"),
    [
        (INFERENCE, [Phase.FORWARD]),
        (GENERATE, [Phase.PREFILL, Phase.DECODE]),
        (BEAMS, [Phase.PREFILL, Phase.DECODE]),
    ],
)
def test_a_step_that_trains_nothing_has_phases_of_its_own_and_no_gradient(
    workload, phases, make_tiny_t5
):
    from petl_bench.cards import CARDS

    case = Case(
        backbone=make_tiny_t5(num_layers=2, num_decoder_layers=2),
        method=resolve("full", {}),
        workload=workload,
    )
    seen = simulate(case, CARDS["t4"])
    assert [list(step) for step in seen.steps] == [phases] * workload.measured_steps
    categories = set(seen.peak().by_category)
    assert not categories & {Category.GRADIENT, Category.OPTIMIZER_STATE, Category.ACTIVATION}
    assert seen.steps[-1][phases[-1]].end_allocated_bytes < seen.peak_allocated_bytes


def test_generation_goes_on_to_the_full_length(make_tiny_t5, attach, no_profiler, monkeypatch):
    from petl_bench.steps import Step

    model = attach("full", make_tiny_t5(num_layers=2, num_decoder_layers=2)).model.eval()
    lengths = []
    generate = model.generate

    def noting(*args, **kwargs):
        tokens = generate(*args, **kwargs)
        lengths.append(tuple(tokens.shape))

    monkeypatch.setattr(model, "generate", noting)
    batch = {"input_ids": torch.ones(2, 7, dtype=torch.long)}
    for workload in (GENERATE, BEAMS):
        Step(model, workload).run(batch, no_profiler)
    assert lengths == [(2, 1 + 5), (2, 1 + 5)]
