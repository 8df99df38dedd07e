"""Models with random weights from transformers' configurations, and batches for them.

Legend: B batch, S source tokens, T target tokens.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import nn

from petl_bench.case import Backbone, DType, Workload
from petl_bench.deferral import without_data

TORCH_DTYPES = {
    DType.FP32: torch.float32,
    DType.BF16: torch.bfloat16,
    DType.FP16: torch.float16,
}

_HIDDEN = 0.15  # of the tokens; Devlin et al. 2019, arXiv:1810.04805, section 3.1


def from_config(create: Callable[..., Any], config: Any, backbone: Backbone) -> nn.Module:
    """A model as `backbone` asks for it; `create` is the `from_config` of a transformers class."""
    model: nn.Module = create(
        config,
        dtype=TORCH_DTYPES[backbone.dtype],
        attn_implementation=backbone.attention.value,
    )
    # Old constructors of tensors, and torch.normal, know no default device.
    device = torch.empty(0).device
    if any(x.device.type != device.type for x in chain(model.parameters(), model.buffers())):
        if device.type == "meta":
            without_data(model)
        else:
            model.to(device)
    return model


def sequence_to_sequence_batch(
    backbone: Backbone, workload: Workload, device: torch.device
) -> dict[str, torch.Tensor]:
    """Sources, [B, S], and targets, [B, T]."""
    assert workload.target_length_tokens is not None
    generator = torch.Generator().manual_seed(workload.seed)
    source = _sources(backbone, workload, generator, device)
    shape = workload.batch_size, workload.target_length_tokens
    return {**source, "labels": _tokens(backbone, shape, generator).to(device)}


def classification_batch(
    backbone: Backbone, workload: Workload, device: torch.device
) -> dict[str, torch.Tensor]:
    """Sources, [B, S], and a class each, [B]."""
    generator = torch.Generator().manual_seed(workload.seed)
    source = _sources(backbone, workload, generator, device)
    labels = backbone.config["num_labels"]
    assert isinstance(labels, int)
    labels_B = torch.randint(labels, (workload.batch_size,), generator=generator)
    return {**source, "labels": labels_B.to(device)}


def language_batch(
    backbone: Backbone, workload: Workload, device: torch.device
) -> dict[str, torch.Tensor]:
    """Sequences, [B, S], that are their own labels but for padding."""
    generator = torch.Generator().manual_seed(workload.seed)
    source = _sources(backbone, workload, generator, torch.device("cpu"))
    labels_BS = source["input_ids"].masked_fill(source["attention_mask"] == 0, -100)
    return {name: x.to(device) for name, x in {**source, "labels": labels_BS}.items()}


def masked_language_batch(
    backbone: Backbone, workload: Workload, device: torch.device
) -> dict[str, torch.Tensor]:
    """Sequences, [B, S], and labels for the first 15 % of each, at least one.

    Tokens are drawn at random, so that hiding them would change nothing.
    """
    batch = language_batch(backbone, workload, torch.device("cpu"))
    hidden = max(round(_HIDDEN * workload.source_length_tokens), 1)
    batch["labels"][:, hidden:] = -100
    return {name: x.to(device) for name, x in batch.items()}


def _sources(
    backbone: Backbone, workload: Workload, generator: torch.Generator, device: torch.device
) -> dict[str, torch.Tensor]:
    # Drawn on the CPU and moved, as a data loader would; meta tensors only keep the shape.
    shape = workload.batch_size, workload.source_length_tokens
    mask_BS = torch.ones(shape, dtype=torch.long)
    mask_BS[-1, -1] = 0
    return {
        "input_ids": _tokens(backbone, shape, generator).to(device),
        "attention_mask": mask_BS.to(device),
    }


def _tokens(backbone: Backbone, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    vocabulary = backbone.config["vocab_size"]
    assert isinstance(vocabulary, int)
    return torch.randint(2, vocabulary, shape, generator=generator)
