"""Energy by a made-up NVML: whose card, which unit, and none where there is no counter."""

from types import SimpleNamespace

import pynvml
import pytest
import torch

from petl_bench.tasks.energy import consumed_j, spent_j


@pytest.fixture
def card(monkeypatch):
    """A CUDA device whose counter a test sets; `calls` are what NVML was asked."""
    found = SimpleNamespace(millijoules=0, calls=[])

    def answer(name, value):
        def call(*arguments):
            found.calls.append((name, *arguments))
            return value() if callable(value) else value

        monkeypatch.setattr(pynvml, name, call)

    answer("nvmlInit", None)
    answer("nvmlShutdown", None)
    answer("nvmlDeviceGetHandleByUUID", "the card")
    answer("nvmlDeviceGetTotalEnergyConsumption", lambda: found.millijoules)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    uuids = {1: "aa-bb"}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda at: SimpleNamespace(uuid=uuids[at])
    )
    return found


def test_joules_are_those_of_the_current_device_between_two_looks(card):
    card.millijoules = 5_000
    before = consumed_j()
    card.millijoules = 12_500
    assert before == 5.0
    assert spent_j(before) == 7.5
    assert ("nvmlDeviceGetHandleByUUID", "GPU-aa-bb") in card.calls
    names = [name for name, *_ in card.calls]
    assert names.count("nvmlInit") == names.count("nvmlShutdown") == 2


@pytest.mark.parametrize(
    "missing", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"]
)
def test_without_a_counter_there_is_no_energy(card, monkeypatch, missing):
    def refuse(*_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    before = consumed_j()
    monkeypatch.setattr(pynvml, missing, refuse)
    assert consumed_j() is None
    assert spent_j(before) is None
    assert spent_j(None) is None
    assert card.calls


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a CUDA device")
def test_without_a_cuda_device_there_is_no_energy():
    assert consumed_j() is None
