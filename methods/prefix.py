"""Prefix tuning: trainable keys and values before those of every attention; all else is frozen.

softmax(q [P_k; k]^T + [0; bias]) [P_v; v],   P_k, P_v: [P, H K], their own in every layer and
for each kind of attention (encoder self, decoder self, cross), as in the authors' code. With
`projection` they come from a network, [P_k, P_v]_layers = W_2 tanh(W_1 e + b_1) + b_2, e: [P, H K],
one for all layers of a stack and kind; after training only what it wrote is kept.
Source: Li & Liang 2021, arXiv:2101.00190, sections 4.2 and 4.3; 10 tokens are the paper's best for
table-to-text (section 7.2), h = 512 the authors' default. Left out: dropout of the prefix, which
is 0 there. The network runs once a step, where the authors run it once for every example.

That network is peft's; its place is not. Peft hands the prefix to transformers as a cache, which
no encoder of theirs reads, and empties the cross-attention's part: T5 would have a prefix in the
decoder's self-attention alone, its encoder would run without autograd, and most of full
fine-tuning's memory would seem saved. Here attention puts the prefix before its keys.

Legend: B batch, T queries, S keys, P prefix tokens, H heads of keys and values, K head size,
h the network's hidden size, n layers of a stack.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from petl_bench.backbones.dims import Dims, SublayerKind
from petl_bench.backbones.ports import Ports
from petl_bench.method import Method, MethodConfig, checkpoint_layers, freeze, needs_ports


class PrefixConfig(MethodConfig):
    """Length of the prefix, and what writes it."""

    tokens: int = Field(10, gt=0, description="P, virtual tokens put before the keys")
    projection: bool = Field(default=True, description="train a network that writes the prefix")
    hidden: int = Field(512, gt=0, description="h, hidden size of that network")


class PrefixedModel(nn.Module):
    """A frozen backbone whose attentions see prefixes; takes the backbone's batches."""

    def __init__(
        self,
        backbone: nn.Module,
        attentions: dict[str, list[nn.Module]],
        writers: dict[str, nn.Module],
        token_ids_P: torch.Tensor,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.writers = nn.ModuleDict(writers)
        self.register_buffer("token_ids_P", token_ids_P, persistent=False)
        self._attentions = attentions  # of each writer, by layer
        self.recomputed = False  # whether layers run again in backward

    def forward(self, **batch: torch.Tensor) -> Any:
        """What the backbone returns, with prefixes in its attentions."""
        with self._prefixes():
            return self.backbone(**batch)

    def generate(self, **inputs: Any) -> Any:
        """The backbone's `generate`; a cache keeps the tokens' keys alone."""
        backbone: Any = self.backbone
        with self._prefixes():
            return backbone.generate(**inputs)

    @property
    def generation_config(self) -> Any:
        """The backbone's."""
        backbone: Any = self.backbone
        return backbone.generation_config

    @contextmanager
    def _prefixes(self) -> Iterator[None]:
        """Give every attention its prefix for one pass, and for what is recomputed of it."""
        try:
            for group, writer in self.writers.items():
                attentions = self._attentions[group]
                written = writer(self.token_ids_P)
                if self.recomputed and written.requires_grad:
                    # Its gradient is whole when no layer of the group is to run again.
                    written.register_hook(partial(_take_away, attentions))
                layers = written.chunk(len(attentions), dim=-1)  # [P, 2 H K] each
                for attention, layer in zip(attentions, layers, strict=True):
                    vars(attention)[_PREFIX] = layer
                del written, layers, layer
            yield
        except BaseException:
            self._take_all_away()
            raise
        if not (self.recomputed and torch.is_grad_enabled()):
            self._take_all_away()

    def _take_all_away(self) -> None:
        for attentions in self._attentions.values():
            _take_away(attentions)


_PREFIX = "prefix"


def _take_away(attentions: list[nn.Module], *gradient: torch.Tensor) -> None:
    del gradient
    for attention in attentions:
        vars(attention).pop(_PREFIX, None)


def checkpoint(model: nn.Module) -> None:
    """Layers run again in backward, their prefixes beside them."""
    assert isinstance(model, PrefixedModel)
    checkpoint_layers(model.backbone)
    model.recomputed = True


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    implementation: str,
    **options: Any,
) -> Any:
    """Transformers' `implementation` of attention, the module's prefix before key and value.

    Query is [B, H, T, K], key and value are [B, H, S, K]; the mask, [B, 1, T, S], is additive.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: PLC0415

    B, H, _, K = key.shape
    P = len(module.prefix)
    prefix_2BHPK = module.prefix.to(key.dtype).view(P, 2, 1, H, K).permute(1, 2, 3, 0, 4)
    prefix_2BHPK = prefix_2BHPK.expand(2, B, H, P, K)
    key = torch.cat([prefix_2BHPK[0], key], dim=2)
    value = torch.cat([prefix_2BHPK[1], value], dim=2)
    if attention_mask is not None:
        attention_mask = F.pad(attention_mask, (P, 0))  # zeros: every query sees the prefix
    if options.get("position_bias") is not None:
        options["position_bias"] = F.pad(options["position_bias"], (P, 0))
    eager = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
    return attention(module, query, key, value, attention_mask, **options)


def attach(model: nn.Module, ports: Ports, config: PrefixConfig) -> nn.Module:
    """Freeze the backbone, and give it attention that reads prefixes, and their writers."""
    import peft  # noqa: PLC0415 - two seconds that only the worker should pay
    from transformers import (  # noqa: PLC0415 - likewise
        AttentionInterface,
        AttentionMaskInterface,
        PreTrainedModel,
    )
    from transformers.masking_utils import eager_mask  # noqa: PLC0415

    freeze(model, keep=ports.task_head)
    backbone: Any = model
    plain = backbone.config._attn_implementation  # noqa: SLF001 - it has no public reader
    prefixed = f"petl-bench-prefix-{plain}"
    AttentionInterface.register(prefixed, partial(attend, implementation=plain))
    # Never None for a causal mask: sdpa's own causal mask would hide the prefix.
    AttentionMaskInterface.register(prefixed, eager_mask)
    for part in model.modules():  # transformers 5.17 passes over stacks with a copy of its config
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation(prefixed)

    parents = {child: parent for parent in model.modules() for child in parent.children()}
    attentions: dict[str, list[nn.Module]] = {}
    for sublayer in ports.sublayers:
        if sublayer.kind is not SublayerKind.FEED_FORWARD:
            group = attentions.setdefault(f"{sublayer.stack}_{sublayer.kind}", [])
            group.append(parents[next(iter(sublayer.projections.values()))])
    if not attentions:
        raise ValueError("prefix: no attention sublayers")
    device = ports.like.device
    writers = {
        group: peft.PrefixEncoder(
            peft.PrefixTuningConfig(
                num_virtual_tokens=config.tokens,
                num_layers=len(layers),
                token_dim=ports.dims.shared_size,
                prefix_projection=config.projection,
                encoder_hidden_size=config.hidden,
            )
        ).to(device)
        for group, layers in attentions.items()
    }
    token_ids_P = torch.arange(config.tokens, device=device)
    return PrefixedModel(model, attentions, writers, token_ids_P)


def trainable_parameters(dims: Dims, config: PrefixConfig) -> int:
    """2 n P H K a stack and kind of attention, or the network's with `projection`; the task head.

    T5-base, P = 10, h = 512: 3 * (7,680 + 393,728 + 9,455,616) = 29,571,072; what is kept of it,
    and what trains without `projection`, is 3 * 184,320 = 552,960.
    """
    P, inner, h = config.tokens, dims.shared_size, config.hidden
    total = dims.task_head_parameters
    for stack in dims.stacks.values():
        for kind in stack.sublayers:
            if kind is not SublayerKind.FEED_FORWARD:
                outputs = stack.layers * 2 * inner
                network = P * inner + (inner * h + h) + (h * outputs + outputs)
                total += network if config.projection else P * outputs
    return total


def unsupported(dims: Dims, config: PrefixConfig) -> str | None:
    """Unknown layers, or attention whose place nothing can take."""
    if dims.stacks and not dims.named_attention:
        return "its attention is not one that transformers look up by name, so none sees a prefix"
    return needs_ports(dims, config)


METHOD = Method(
    name="prefix",
    title="Prefix tuning",
    source="Li & Liang 2021, arXiv:2101.00190, section 4",
    config=PrefixConfig,
    attach=attach,
    trainable_parameters=trainable_parameters,
    unsupported=unsupported,
    checkpoint=checkpoint,
)
