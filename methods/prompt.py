"""Prompt tuning: trainable vectors in front of the input's embeddings; all else is frozen.

The model is peft's. In an encoder-decoder the prompt goes to the encoder alone, as in the paper
and the LST authors' code. Values are drawn at random, so that nothing needs a tokenizer.
With `hidden`, a network writes the prompt, W_2 tanh(W_1 e + b_1) + b_2, as in the LST authors' code
for images; it runs once a step, where theirs runs for every example.
Source: Lester, Al-Rfou & Constant 2021, arXiv:2104.08691, section 2.
"""

from typing import Any

import torch
from pydantic import Field
from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.method import Method, MethodConfig
from petl_bench.peft_methods.attaching import get_peft_model, virtual_tokens


class PromptConfig(MethodConfig):
    """Length of the prompt."""

    tokens: int = Field(100, gt=0, description="virtual tokens put before the source")
    hidden: int | None = Field(
        None, gt=0, description="train a network of this hidden size that writes the prompt"
    )


class WrittenPrompt(nn.Module):
    """In place of peft's plain embedding: one and the network that it goes through."""

    def __init__(self, embedding: nn.Embedding, hidden: int) -> None:
        super().__init__()
        D = embedding.embedding_dim
        self.embedding = embedding
        network = nn.Sequential(nn.Linear(D, hidden), nn.Tanh(), nn.Linear(hidden, D))
        self.network = network.to(embedding.weight)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token numbers, [1, P] -> the prompt, [1, P, D]."""
        return self.network(self.embedding(tokens))  # type: ignore[no-any-return]


def attach(model: nn.Module, ports: Ports, config: PromptConfig) -> nn.Module:
    """Peft's model with `tokens` trainable vectors of width D, or what writes them."""
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    prompt = peft.PromptTuningConfig(**virtual_tokens(ports, config.tokens))
    prompted: Any = get_peft_model(model, ports, prompt)
    if config.hidden is not None:
        for name, encoder in prompted.prompt_encoder.items():
            prompted.prompt_encoder[name] = WrittenPrompt(encoder.embedding, config.hidden)
    return prompted  # type: ignore[no-any-return]


def trainable_parameters(dims: Dims, config: PromptConfig) -> int:
    """P D, and with a network h (2 D + 1) + D; and the task head. T5-base, P = 100: 76,800."""
    D, h = dims.hidden_size, config.hidden
    network = 0 if h is None else h * (2 * D + 1) + D
    return config.tokens * D + network + dims.task_head_parameters


METHOD = Method(
    name="prompt",
    title="Prompt tuning",
    source="Lester et al. 2021, arXiv:2104.08691, section 2",
    config=PromptConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    learning_rate=0.3,  # Sung et al. 2022, as run by the authors' code
)
