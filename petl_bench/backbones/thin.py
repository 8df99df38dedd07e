"""What the thin stacks of all families share: their configuration, and room in a cache."""

import copy
from collections.abc import Sequence
from typing import Any

from petl_bench.backbones.ports import ThinShape


def thinned(config: Any, shape: ThinShape, widths: Sequence[str]) -> Any:
    """A copy of a transformers configuration, its `widths` divided and its attention chosen."""
    thin = copy.deepcopy(config)
    for field in widths:
        setattr(thin, field, getattr(config, field) // shape.reduction)
    if shape.attention is not None:
        thin._attn_implementation = shape.attention  # noqa: SLF001 - transformers' own way
    return thin


def reserved(cache: Any, slot: int) -> Any:
    """`cache` with room for the keys and values of layer `slot`; None stays None.

    Raises:
        ValueError: a cache of fixed shape, which has no room for layers of other widths.
    """
    if cache is None:
        return None
    from transformers import DynamicCache, EncoderDecoderCache  # noqa: PLC0415 - imported already
    from transformers.cache_utils import DynamicLayer  # noqa: PLC0415 - imported already

    paired = isinstance(cache, EncoderDecoderCache)
    for part in (cache.self_attention_cache, cache.cross_attention_cache) if paired else (cache,):
        if type(part) is not DynamicCache or any(part.is_sliding):
            kind = "a sliding window" if type(part) is DynamicCache else type(part).__name__
            raise ValueError(f"a side network needs a DynamicCache of whole sequences, not {kind}")
        while len(part.layers) <= slot:
            part.layers.append(DynamicLayer())
    return cache
