"""How many parameters a ladder trains, in closed form, and where it does not fit."""

from petl_bench.backbones.dims import Dims
from petl_bench.method import needs_ports

from .config import LstConfig, kept_layers


def trainable_parameters(dims: Dims, config: LstConfig) -> int:
    """Entries, rungs, gates, side blocks, side norms, the exit and its gate, a classifier's head.

    T5-base, reduction 8, 9 of 12 layers kept: 3,878,712.
    """
    D, d = dims.hidden_size, config.side_width(dims.hidden_size)
    linear = D * d + config.biases * d
    total = int(config.merge)
    if config.head == "side":
        total += d * dims.labels + dims.labels
    else:
        total += d * D + config.biases * D + dims.task_head_parameters
    for name, stack in dims.stacks.items():
        kept = len(kept_layers(dims, name, config))
        total += (1 + config.climbs * kept) * linear
        total += stack.layers if config.gates == "learned" else 0
        total += kept * _block(dims, name, config)
        if config.blocks in {"native", "cross-attention"}:
            total += stack.relative_position_buckets * dims.num_heads
            total += stack.position_vectors * d
            total += stack.final_norm * dims.norm_vectors * d
        elif config.blocks == "adapter":
            total += d
    return total


def _block(dims: Dims, stack: str, config: LstConfig) -> int:
    d = config.side_width(dims.hidden_size)
    reader = 4 * d * d + d
    if config.blocks == "plain":
        return 4 * (d * d + d) + 8 * d * d + 5 * d + 4 * d
    if config.blocks == "adapter":
        inner = dims.feed_forward_size // config.reduction
        reads = stack == "decoder" and len(dims.stacks) > 1
        return 2 * d * inner + inner + 2 * d + reads * reader
    thin = dims.layer_parameters(stack, config.reduction)
    return thin + (reader if config.blocks == "cross-attention" else 0)


def unsupported(dims: Dims, config: LstConfig) -> str | None:
    """A width that is left at zero or does not fall into heads, or a layer that does not exist."""
    if unknown := needs_ports(dims, config):
        return unknown
    misfit = _plain_misfit(dims, config) if config.blocks == "plain" else _thin_misfit(dims, config)
    if misfit is not None:
        return misfit
    if dims.extra_input_parameters and config.blocks != "native":
        return f"blocks={config.blocks} take no tokens but text"
    if config.head == "side" and dims.language_head:
        return "head=side is for classifiers; this backbone has a language head"
    return _missing_layer(dims, config)


def _missing_layer(dims: Dims, config: LstConfig) -> str | None:
    try:
        for stack in dims.stacks:
            kept_layers(dims, stack, config)
    except ValueError as error:
        return str(error)
    return None


def _plain_misfit(dims: Dims, config: LstConfig) -> str | None:
    if set(dims.stacks) != {"encoder"}:
        return "blocks=plain is for encoders"
    width = config.side_width(dims.hidden_size)
    return f"a width of {width} has no {config.heads} heads" if width % config.heads else None


def _thin_misfit(dims: Dims, config: LstConfig) -> str | None:
    r, heads = config.reduction, dims.num_heads
    smallest = min(dims.hidden_size, dims.head_size, dims.feed_forward_size)
    if smallest < r:
        return f"reduction {r} leaves nothing of a width of {smallest}"
    if config.cuts:
        if uncut := dims.uncut:
            return f"initialise={config.initialise}: {uncut}"
        for width in (dims.hidden_size, dims.head_size, dims.feed_forward_size):
            if width % r:
                return f"initialise={config.initialise}: reduction {r} does not divide {width}"
    if dims.split_heads and dims.hidden_size // r % heads:
        return (
            f"reduction {r} leaves a width of {dims.hidden_size // r}, which has no {heads} heads"
        )
    turned = int(dims.head_size // r * dims.rotary_share)
    if dims.rotary and (turned % 2 or not turned):
        part = "" if dims.rotary_share == 1 else f", {turned} of which turn"
        return (
            f"reduction {r} leaves heads of {dims.head_size // r}{part}, which cannot turn in pairs"
        )
    return None
