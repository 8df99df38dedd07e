"""Prompt tuning: trainable vectors in front of the input's embeddings; all else is frozen.

The model is peft's. In an encoder-decoder the prompt goes to the encoder alone, as in the paper
and the LST authors' code. Values are drawn at random, so that nothing needs a tokenizer.
Source: Lester, Al-Rfou & Constant 2021, arXiv:2104.08691, section 2.
"""

from pydantic import Field
from torch import nn

from petl_bench.backbones.ports import Dims, Ports
from petl_bench.method import Method, MethodConfig
from petl_bench.peft_methods.attaching import get_peft_model


class PromptConfig(MethodConfig):
    """Length of the prompt."""

    tokens: int = Field(100, gt=0, description="virtual tokens put before the source")


def attach(model: nn.Module, ports: Ports, config: PromptConfig) -> nn.Module:
    """Peft's model with `tokens` trainable vectors of width D."""
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    return get_peft_model(
        model,
        ports,
        peft.PromptTuningConfig(
            task_type=ports.peft_task,
            num_virtual_tokens=config.tokens,
            num_transformer_submodules=1,
        ),
    )


def trainable_parameters(dims: Dims, config: PromptConfig) -> int:
    """Tokens * D, and the task head. T5-base with 100 tokens: 76,800."""
    return config.tokens * dims.hidden_size + dims.task_head_parameters


METHOD = Method(
    name="prompt",
    title="Prompt tuning",
    source="Lester et al. 2021, arXiv:2104.08691, section 2",
    config=PromptConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
)
