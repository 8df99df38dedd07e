"""A small T5 of transformers' own, without the harness."""

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

VOCABULARY = 99


def tiny_t5(seed: int = 0, **changes) -> T5ForConditionalGeneration:
    config = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 4,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **changes,
    }
    torch.manual_seed(seed)
    return T5ForConditionalGeneration(T5Config(**config))


@pytest.fixture
def make_t5():
    return tiny_t5


@pytest.fixture
def t5():
    return tiny_t5().eval()


@pytest.fixture
def batch():
    """Padding in the source, and labels that do not count."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(2, VOCABULARY, (3, 7), generator=generator)
    labels = torch.randint(2, VOCABULARY, (3, 5), generator=generator)
    mask = torch.ones_like(source)
    mask[1, -2:] = 0
    labels[2, -2:] = -100
    return {"input_ids": source, "attention_mask": mask, "labels": labels}


@pytest.fixture
def stirred():
    """Give a ladder weights that are far from its start, so that every part of it shows."""

    def stir(model, seed: int = 2):
        torch.manual_seed(seed)
        for parameter in model.ladders.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return model

    return stir
