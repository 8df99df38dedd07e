"""A small CLIP-T5, and a batch with images."""

import pytest
import torch

from petl_bench import backbones, method, method_spec, registry
from petl_bench.backbones import FAMILIES
from petl_bench.case import Attention, Backbone, Workload

TINY = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
    "num_layers": 4,
    "num_decoder_layers": 4,
    "feature_size": 10,
    "feature_grid": 3,
    "pooled_grid": 2,
}
WORKLOAD = Workload(batch_size=3, source_length_tokens=7, target_length_tokens=5)


@pytest.fixture
def workload():
    return WORKLOAD


@pytest.fixture
def tiny():
    """Factory of a small backbone, with changes."""

    def make(**changes):
        config = {**backbones.find("clip-t5-base").config, **TINY, **changes}
        return Backbone(name="tiny", family="clip-t5", config=config)

    return make


@pytest.fixture
def built(tiny):
    """Factory: `spec` attached to a small backbone, and a batch for it."""

    def make(spec="full", workload=WORKLOAD, device="cpu", attention="eager", **changes):
        backbone = tiny(**changes).model_copy(update={"attention": Attention(attention)})
        family = FAMILIES[backbone.family]
        ((_, choice),) = method_spec.parse_specs(spec)
        chosen = registry.get(choice.name)
        config = method_spec.validated_config(chosen, choice.config)
        torch.manual_seed(0)
        with torch.device(device):
            model = family.build(backbone)
            model = method.attach(chosen, model, family.ports(model), config)
        return model, family.batch(backbone, workload, torch.device(device))

    return make


@pytest.fixture
def stirred():
    """Give what trains weights that are far from its start, so that every part of it shows."""

    def stir(model, seed=2):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return stir
