"""P-tuning: trainable vectors before the input's embeddings, written by a small network.

prompt = MLP(LSTM(e)),  e: [P, D] trainable;  a bidirectional LSTM of two layers and a network of
two with ReLU. `encoder=mlp` is peft's default instead: three layers with ReLU, no LSTM. All but e
and that network is frozen. Model and network are peft's, which runs the network once a step and
copies the prompt to each example; in an encoder-decoder it goes to the encoder alone.
Source: Liu, Zheng, Du, Ding, Qian, Yang & Tang 2021, arXiv:2103.10385, section 3.2; sizes from the
authors' code: 3 + 3 + 3 tokens, LSTM states of D / 2 in each direction, no dropout.
Left out: anchor words, and prompts in the midst of the input.

On CUDA the LSTM is one cuDNN call with a workspace of its own, which a simulation does not know: it
runs the LSTM step by step, on a single row of P tokens.

Legend: P prompt tokens, D hidden size, h the network's hidden size.
"""

from typing import Literal

from pydantic import Field
from torch import nn

from petl_bench.backbones.dims import Dims
from petl_bench.backbones.ports import Ports
from petl_bench.method import Method, MethodConfig
from petl_bench.peft_methods.attaching import get_peft_model, virtual_tokens


class PtuningConfig(MethodConfig):
    """Length of the prompt, and the network that writes it."""

    tokens: int = Field(9, gt=0, description="virtual tokens put before the source")
    encoder: Literal["lstm", "mlp"] = Field(
        "lstm", description="the network: lstm is the paper's, mlp peft's default"
    )
    hidden: int | None = Field(
        None, gt=0, description="h; if not given, hidden size / 2 with lstm, hidden size with mlp"
    )

    def width(self, hidden_size: int) -> int:
        """The network's hidden size h."""
        return self.hidden or (hidden_size // 2 if self.encoder == "lstm" else hidden_size)


def attach(model: nn.Module, ports: Ports, config: PtuningConfig) -> nn.Module:
    """Peft's model with `tokens` vectors and the network that reads them."""
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay

    prompt = peft.PromptEncoderConfig(
        **virtual_tokens(ports, config.tokens),
        encoder_reparameterization_type=config.encoder.upper(),
        encoder_hidden_size=config.width(ports.dims.hidden_size),
    )
    return get_peft_model(model, ports, prompt)


def trainable_parameters(dims: Dims, config: PtuningConfig) -> int:
    """P D, the network's weights and biases, and the task head.

    T5-base, P = 9, h = 384: 6,912 + 2 * 3,545,088 (LSTM) + 1,181,184 = 8,278,272.
    """
    D, h = dims.hidden_size, config.width(dims.hidden_size)
    if config.encoder == "lstm":
        gates = 4 * h
        first, second = (2 * gates * (size + h + 2) for size in (D, 2 * h))  # two directions
        network = first + second + (2 * h) * (2 * h) + 2 * h + 2 * h * D + D
    else:
        network = (D * h + h) + (h * h + h) + (h * D + D)
    return config.tokens * D + network + dims.task_head_parameters


METHOD = Method(
    name="ptuning",
    title="P-tuning",
    source="Liu et al. 2021, arXiv:2103.10385, section 3.2",
    config=PtuningConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
)
