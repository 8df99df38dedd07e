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

    A layer of transformers' caches takes its shape from the first keys that it is given, one of
    fixed length, too: so layers of other widths stand beside the backbone's.

    Raises:
        ValueError: a cache whose layers are neither dynamic nor static: sliding, quantised.
    """
    if cache is None:
        return None
    from transformers import DynamicCache, EncoderDecoderCache, StaticCache  # noqa: PLC0415
    from transformers.cache_utils import DynamicLayer, StaticLayer  # noqa: PLC0415 - likewise

    crossed = cache.cross_attention_cache if isinstance(cache, EncoderDecoderCache) else None
    for part in (cache,) if crossed is None else (cache.self_attention_cache, crossed):
        kind = {DynamicCache: DynamicLayer, StaticCache: StaticLayer}.get(type(part))
        if kind is None or any(part.is_sliding):
            held = type(part).__name__ if kind is None else "a sliding window"
            raise ValueError(f"a side network needs a cache of whole sequences, not {held}")
        while len(part.layers) <= slot:
            # What is attended to across is written once, and may be longer than the backbone's.
            fixed = kind is StaticLayer and part is not crossed
            part.layers.append(kind(part.layers[0].max_cache_len) if fixed else DynamicLayer())
    return cache
