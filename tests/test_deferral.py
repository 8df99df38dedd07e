"""Modules built without data, beside the same code with data."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from petl_bench.deferral import deferred_values, without_data


def written_over():
    x = torch.zeros(6)
    x[1:3] = torch.arange(2.0) + 1
    y = x.view(2, 3)
    y[1] += 5
    return x


def drawn_by_a_generator():
    generator = torch.Generator().manual_seed(3)
    return torch.randperm(50, generator=generator)[:7].sort().values


def of_numpy():
    return torch.as_tensor(np.arange(5)).to(torch.float32) * torch.full((5,), 3.0)


def of_python():
    weights = torch.zeros(4)
    weights += torch.tensor([1.0, 0.0, 2.0, 0.0])
    return weights


def counted():
    return torch.bincount(torch.arange(9) // 2, minlength=7)


def chosen_by_a_mask():
    x = torch.arange(10.0)
    return x[x.remainder(3) == 1]


def cast_and_moved():
    return torch.arange(4).to("cpu").to(torch.float64).cpu() / 3


def of_a_deep_copy():
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, 2.5)
    return copy.deepcopy(layer).weight.detach()


def written_number_by_number():
    places = torch.tensor([2, 0, 1]).flip(0)
    x, y = torch.zeros(3, 3), torch.ones(2, 2)
    for row, place in enumerate(places):
        x[row, place] = row + 1
    z = x.clone()
    x[0, 0] = 9
    x[-1, places[1]] = 7.5
    y[1, 0] = x[0, 0].item()  # a question in between
    y[1, 0] = -1
    return torch.cat([x, z]).sum(1), y


def written_number_by_number_into_a_view():
    x = torch.arange(12.0)
    rows = x.view(3, 4)[1:]
    rows[1, 3] = 5
    x += 1
    rows[0, 0] = 6
    return x


def drawn_again_after_a_seed():
    torch.manual_seed(3)
    first = torch.rand(3)
    torch.manual_seed(3)
    return (torch.rand(3) == first).all()


PROGRAMS = [
    written_over,
    drawn_by_a_generator,
    of_numpy,
    of_python,
    counted,
    chosen_by_a_mask,
    cast_and_moved,
    of_a_deep_copy,
    written_number_by_number_into_a_view,
    drawn_again_after_a_seed,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_asked_for_values_it_gives_those_that_the_cpu_gives(program):
    with deferred_values():
        deferred = program()
        told = deferred.tolist()
        shape, dtype = deferred.shape, deferred.dtype
    real = program()
    assert told == real.tolist()
    assert (shape, dtype) == (real.shape, real.dtype)


def test_numbers_written_one_by_one_are_there_when_asked():
    with deferred_values():
        told = [part.tolist() for part in written_number_by_number()]
    assert told == [part.tolist() for part in written_number_by_number()]


def test_inside_it_is_the_cpu_and_afterwards_there_is_no_data():
    with deferred_values():
        x = torch.ones(3)
        assert x.device == torch.device("cpu")
        assert not x.is_meta
        assert x.to("cpu") is x
    assert x.is_meta


def test_a_value_asked_for_early_is_not_that_of_later():
    with deferred_values():
        x = torch.ones(2)
        before = x.sum().item()
        x.mul_(3)
        assert (before, x.sum().item()) == (2.0, 6.0)


def test_random_numbers_differ_from_draw_to_draw_and_stay_what_they_are():
    with deferred_values():
        first, second = torch.rand(4), torch.rand(4)
        generator = torch.Generator()
        third, fourth = (torch.rand(4, generator=generator) for _ in range(2))
        assert first.tolist() == first.tolist()
        assert first.tolist() != second.tolist()
        assert third.tolist() != fourth.tolist()


def test_asking_leaves_torchs_own_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with deferred_values():
        torch.rand(5).tolist()
    assert torch.equal(torch.rand(3), expected)


def test_weights_of_a_model_without_data_count_as_random():
    model = nn.Linear(30, 30, device="meta")
    with deferred_values():
        assert bool(model.weight.abs().sum() > 0)
        assert len(torch.nonzero(model.weight)) == 900


def test_only_what_a_value_rests_on_is_worked_out():
    with deferred_values():
        huge = torch.ones(10**9, 10**6)  # would be four petabytes
        torch.linalg.vector_norm(huge)
        assert torch.arange(huge.shape[1] // 10**5).sum().item() == 45


def test_tensors_that_do_not_move_with_a_model_stay_on_the_host():
    module = nn.Linear(2, 2)
    with deferred_values():
        module.place, module.places = torch.ones(3), {"default": torch.arange(4)}
    without_data(module)
    assert module.place.device.type == module.places["default"].device.type == "cpu"
    assert module.places["default"].shape == (4,)


def test_what_holds_data_is_put_on_meta_with_its_ties():
    model = nn.Module()
    model.a, model.b = nn.Linear(2, 2), nn.Linear(2, 2)
    model.b.weight = model.a.weight
    for name in "xy":
        model.get_submodule("a").register_buffer(name, model.a.bias.detach())
    model.a.y = model.a.x
    model.a.bias.requires_grad_(requires_grad=False)
    without_data(model)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert model.b.weight is model.a.weight
    assert model.a.x is model.a.y
    assert [p.requires_grad for p in model.a.parameters()] == [True, False]
