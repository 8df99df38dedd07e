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


def reserved(cache: Any, slot: int, beside: int | None = None) -> Any:
    """`cache` with room for the keys and values of layer `slot`; None stays None.

    A layer of transformers' caches takes its shape from the first keys that it is given, one of
    fixed length, too: so layers of other widths stand beside the backbone's. One `beside` a layer
    that keeps a window keeps the same, for the mask of both is one.

    Raises:
        ValueError: a cache whose layers are neither dynamic nor static: quantised, or sliding
            where no layer was named.
    """
    if cache is None:
        return None
    from transformers import DynamicCache, EncoderDecoderCache, StaticCache  # noqa: PLC0415
    from transformers.cache_utils import (  # noqa: PLC0415 - likewise
        DynamicLayer,
        DynamicSlidingWindowLayer,
        StaticLayer,
        StaticSlidingWindowLayer,
    )

    crossed = cache.cross_attention_cache if isinstance(cache, EncoderDecoderCache) else None
    for part in (cache,) if crossed is None else (cache.self_attention_cache, crossed):
        kind = {DynamicCache: DynamicLayer, StaticCache: StaticLayer}.get(type(part))
        slides = part.is_sliding
        if kind is None or (beside is None and any(slides)):
            held = type(part).__name__ if kind is None else "a sliding window"
            raise ValueError(f"a side network needs a cache of whole sequences, not {held}")
        # What is attended to across is written once, and may be longer than the backbone's.
        fixed = kind is StaticLayer and part is not crossed
        while len(part.layers) <= slot:
            like = part.layers[beside or 0]
            made: Any
            if beside is not None and slides[beside]:
                made = (
                    StaticSlidingWindowLayer(like.max_cache_len, like.max_cache_len)
                    if fixed
                    else DynamicSlidingWindowLayer(like.sliding_window)
                )
            else:
                made = StaticLayer(like.max_cache_len) if fixed else DynamicLayer()
            part.layers.append(made)
    return cache
