"""A tiny backbone, to compare with the harness's own simulation."""

import pytest

from petl_bench import backbones
from petl_bench.case import Backbone

TINY = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2}


@pytest.fixture
def make_tiny_t5():
    """Factory of a T5 with two layers a stack."""

    def make():
        config = {**backbones.find("t5-small").config, **TINY, "num_decoder_layers": 2}
        return Backbone(name="tiny-t5", family="t5", config=config)

    return make
