"""Any torch model: what `petl_bench.simulate` says of it."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

import petl_bench
from petl_bench import cards, method_spec
from petl_bench.assembly import assemble, make_batch
from petl_bench.case import Case, Workload
from petl_bench.comparison.composition import total_bytes
from petl_bench.errors import UsageError
from petl_bench.profilers.simulated.profiler import META, simulate
from petl_bench.record import Category, Phase
from petl_bench.units import MIB

WORKSPACES = 2 * 8_519_680  # one a thread: forward's and autograd's


def mlp():
    return nn.Sequential(
        nn.Linear(512, 2048, bias=False), nn.ReLU(), nn.Linear(2048, 512, bias=False)
    )


def mean_square(model, batch):
    return model(batch).square().mean()


class Net(nn.Module):
    """A small CNN with buffers."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x, labels):
        logits = self.head(self.body(x).mean((2, 3)))
        return {"loss": F.cross_entropy(logits, labels)}


IMAGES = {"x": (8, 3, 32, 32), "labels": torch.empty(8, dtype=torch.long)}


def test_an_mlp_takes_what_a_hand_works_out():
    """Two matrices of 4 MiB; 1,024 rows of 512 in, 2,048 hidden, 512 out, all fp32."""
    found = petl_bench.simulate(mlp, (1024, 512), loss=mean_square)
    weights, hidden, rows = 2 * 4 * MIB, 8 * MIB, 2 * MIB
    steady = weights + 2 * weights + WORKSPACES + rows  # parameters, AdamW's moments, input
    steps = {p: found.measurement.peak(p) for p in (Phase.FORWARD, Phase.OPTIMIZER_STEP)}
    # Forward: ReLU's result and its input are there together, nothing else of that size is.
    assert steps[Phase.FORWARD].peak_allocated_bytes - steady == 2 * hidden
    # Gradients, and as much again for the square roots; step counts live on the host.
    assert steps[Phase.OPTIMIZER_STEP].peak_allocated_bytes - steady == 2 * weights
    assert found.measurement.trainable_parameters == 2 * 512 * 2048
    # Forward, and backward for weights and (but of the first layer) for inputs: 2 FLOPs a product.
    assert found.measurement.flops_per_step == 2 * 1024 * 512 * 2048 * (2 + 3)


def test_it_agrees_to_the_byte_with_the_harness(make_tiny_t5):
    """The harness's own training step on the same model, written as a user would write it."""
    case = Case(
        backbone=make_tiny_t5(),
        method=method_spec.resolve("lora", {}),
        workload=Workload(batch_size=3, source_length_tokens=7, target_length_tokens=5),
    )
    card = cards.find("a100-80gb")

    def step(model, batch, optimizer):
        model(**batch)["loss"].backward()
        clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()

    found = petl_bench.simulate(
        lambda: assemble(case, META).model, make_batch(case, META), step=step
    )
    expected = simulate(case, card)
    assert found.measurement.load == expected.load
    for phase, memory in found.measurement.steps[0].items():
        # Where the loss goes is a phase's end, and nobody's peak.
        end = {"end_allocated_bytes": expected.steps[0][phase].end_allocated_bytes}
        assert replace(memory, **end) == expected.steps[0][phase]
    assert found.measurement.flops_per_step == expected.flops_per_step


def test_the_peak_is_the_sum_of_what_it_is_made_of():
    found = petl_bench.simulate(Net, IMAGES, gpu="t4")
    assert total_bytes(found.at_peak) == found.peak_allocated_bytes
    assert found.by_category[Category.BUFFER] == 3 * 512  # mean, variance, count
    assert ("body.*", "1") in {(part.module, part.layers) for part in found.at_peak}
    assert "Net: " in str(found)
    assert "peak allocated" in str(found)


def test_a_model_is_left_as_it_was():
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = petl_bench.simulate(model, IMAGES, optimizer=optimizer)
    assert found == petl_bench.simulate(Net, IMAGES, optimizer=optimizer.__class__).model_copy(
        update={"measurement": found.measurement, "at_peak": found.at_peak}
    )
    assert found.by_category.get(Category.OPTIMIZER_STATE, 0) > 0  # momentum, taken over
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_a_function_may_return_a_model_that_has_data():
    model = Net()
    assert petl_bench.simulate(lambda: model, IMAGES, name="Net") == petl_bench.simulate(
        Net, IMAGES
    )


def test_tied_weights_stay_tied():
    model = mlp()
    model[2].weight = nn.Parameter(model[0].weight.T.contiguous())
    tied = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    tied[1].weight = tied[0].weight
    found = petl_bench.simulate(tied, (4, 64), loss=mean_square)
    assert found.measurement.total_parameters == 64 * 64


def test_gradients_that_accumulate_are_one_step():
    def step(model, batch, optimizer):
        optimizer.zero_grad()  # first, as many people write it
        for _ in range(2):
            model(**batch)["loss"].backward()
        optimizer.step()

    found = petl_bench.simulate(Net, IMAGES, step=step)
    plain = petl_bench.simulate(Net, IMAGES)
    for measured in found.measurement.steps:
        assert list(measured) == [Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER_STEP]
    assert found.measurement.steps[0] == found.measurement.steps[1]
    assert found.measurement.flops_per_step == 2 * plain.measurement.flops_per_step


def test_a_step_that_leaves_something_behind_grows():
    kept = []

    def step(model, batch, optimizer):
        loss = model(**batch)["loss"]
        kept.append(loss)  # with its graph
        loss.backward(retain_graph=True)
        optimizer.step()

    found = petl_bench.simulate(Net, IMAGES, step=step, optimizer="sgd")
    first, second = (step[Phase.FORWARD] for step in found.measurement.steps)
    assert second.peak_allocated_bytes > first.peak_allocated_bytes


def square_step(model, batch, optimizer):
    mean_square(model, batch).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_code_that_is_written_for_cuda_runs_as_it_is():
    def cuda_step(model, batch, optimizer):
        noise = torch.zeros(512, device="cuda")
        square_step(model.to("cuda:0"), batch.cuda() + noise, optimizer)

    def plain_step(model, batch, optimizer):
        noise = torch.zeros(512, device=batch.device)
        square_step(model, batch + noise, optimizer)

    built, plain = (
        petl_bench.simulate(build, (1024, 512), step=step, name="mlp")
        for build, step in ((lambda: mlp().cuda(), cuda_step), (mlp, plain_step))
    )
    assert built.measurement.steps == plain.measurement.steps
    assert built.by_category == plain.by_category


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {}])
def test_autocast_for_cuda_is_autocast(options):
    def half(model, batch):
        with torch.autocast("cuda", **options):
            return mean_square(model, batch)

    found = petl_bench.simulate(mlp, (1024, 512), loss=half).measurement.peak(Phase.FORWARD)
    whole = petl_bench.simulate(mlp, (1024, 512), loss=mean_square).measurement.peak(Phase.FORWARD)
    kept_whole = 8 + 2  # relu's result; the last product, to be squared
    # In 2 bytes: relu's result, the input, the weight that it meets; squared in fp32.
    kept_half = 4 + 1 + 2 + 2
    difference = whole.end_allocated_bytes - found.end_allocated_bytes
    assert difference == (kept_whole - kept_half) * MIB


def test_several_optimizers_are_a_steps_own():
    class Gan(nn.Module):
        def __init__(self):
            super().__init__()
            self.maker, self.judge = nn.Linear(512, 512, bias=False), nn.Linear(512, 1024)

    def step(model, batch, optimizers):
        made = model.maker(batch)
        model.judge(made.detach()).mean().backward()
        optimizers["judge"].step()
        optimizers["judge"].zero_grad()
        model.judge(made).mean().backward()
        optimizers["maker"].step()
        model.zero_grad()

    def optimizers(model):
        return {
            "maker": torch.optim.SGD(model.maker.parameters(), lr=0.1, momentum=0.9),
            "judge": torch.optim.Adam(model.judge.parameters()),
        }

    found = petl_bench.simulate(Gan, (64, 512), step=step, optimizers=optimizers)
    assert found.optimizer == "sgd+adam"
    judge = 4 * (512 * 1024 + 1024)
    assert found.by_category[Category.OPTIMIZER_STATE] == 4 * 512 * 512 + 2 * judge
    with pytest.raises(UsageError, match="need a step of your own"):
        petl_bench.simulate(Gan, (64, 512), optimizers=optimizers)


def test_a_model_that_asks_for_values_while_it_is_built():
    def asking():
        model = mlp()
        model.scale = model[0].weight.abs().max().item()
        return model

    found = petl_bench.simulate(asking, (1024, 512), loss=mean_square, name="mlp")
    assert found == petl_bench.simulate(mlp, (1024, 512), loss=mean_square, name="mlp")


def test_a_step_may_ask_whether_its_loss_is_a_number():
    def step(model, batch, optimizer):
        loss = mean_square(model, batch)
        if torch.isnan(loss).any():
            raise RuntimeError("diverged")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    found = petl_bench.simulate(mlp, (8, 512), step=step)
    assert found.peak_allocated_bytes > 0


def test_a_step_that_needs_values_is_told_so():
    def step(model, batch, optimizer):
        square_step(model, batch, optimizer)
        return batch.cpu().numpy()

    with pytest.raises(UsageError, match="step: asks for what tensors without data lack") as told:
        petl_bench.simulate(mlp, (8, 512), step=step)
    assert "\n" not in str(told.value)


def test_cudnns_recurrent_kernels_are_said_to_be_missing():
    def last(model, batch):
        return model(batch)[0].mean()

    with pytest.warns(UserWarning, match="recurrent kernels are not simulated"):
        petl_bench.simulate(lambda: nn.LSTM(8, 16), (5, 2, 8), loss=last)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "resnet"}, "neither a module nor a function"),
        ({"model": lambda: 3}, "returned int, not a torch module"),
        ({"model": mlp, "batch": (4, 512)}, r"shape \(4, 512\); give loss="),
        ({"model": mlp, "batch": "none"}, "neither a tensor nor a shape"),
        ({"optimizer": "adamax"}, "did you mean adamw"),
        ({"optimizer": list}, "returned list, no optimizer"),
        ({"gpu": "a1000"}, "no card 'a1000'"),
        ({"loss": mean_square, "step": print}, "give one of the two"),
        ({"model": nn.Identity}, "none of its parameters trains"),
        ({"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters())}, "is of another model"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(arguments, said):
    given = {"model": Net, "batch": IMAGES} | arguments
    with pytest.raises(UsageError, match=said) as refused:
        petl_bench.simulate(given.pop("model"), given.pop("batch"), **given)
    assert "\n" not in str(refused.value)


def test_measuring_needs_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="needs a CUDA device and there is none"):
        petl_bench.measure(Net, IMAGES)


@pytest.mark.gpu
def test_measured_and_simulated_agree():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    measured = petl_bench.measure(mlp, (1024, 512), loss=mean_square)
    simulated = petl_bench.simulate(mlp, (1024, 512), loss=mean_square)
    assert measured.peak_allocated_bytes == pytest.approx(simulated.peak_allocated_bytes, rel=0.05)


def test_the_example_of_the_page_runs_as_it_stands(capsys):
    page = (Path(__file__).parents[2] / "docs/ci.md").read_text()
    (example,) = re.findall(r"```python\n(import petl_bench\n.*?)```", page, re.DOTALL)
    exec(example, {})  # noqa: S102 - our own page
    assert "peak allocated" in capsys.readouterr().out


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, petl_bench; dir(petl_bench);"
        "print(sorted({'torch', 'pandas', 'pydantic', 'transformers'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"
    for name in petl_bench.__all__:
        assert getattr(petl_bench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'simulation'"):
        _ = petl_bench.simulation


def test_what_kernels_borrow_is_the_named_cards():
    """A bias's gradient is summed by as many blocks as the card has room for."""

    def only_the_bias_trains():
        model = nn.Linear(768, 768)
        model.weight.requires_grad_(requires_grad=False)
        return model

    def needs(gpu):
        seen = petl_bench.simulate(
            only_the_bias_trains, (12_800, 768), loss=lambda model, x: model(x).mean(), gpu=gpu
        )
        return seen.measurement.of(Phase.BACKWARD).peak_requested_bytes

    t4, a100 = cards.find("t4"), cards.find("a100-80gb")
    assert t4.cublas_workspace_bytes == a100.cublas_workspace_bytes
    assert needs(t4.name) < needs(a100.name)
