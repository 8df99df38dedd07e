"""What a ladder looks like: options, the variants that the sources name, the kept layers."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from petl_bench.backbones.dims import Dims
from petl_bench.method import MethodConfig

_VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    # The paper's baselines of its section 4: a side network that the backbone does not feed.
    "side-tuning": {"gates": "one", "merge": True, "keep": "all"},
    "network-pruning": {"gates": "one", "keep": "all"},
    # The supplement's other designs of a side block.
    "adapter-blocks": {"blocks": "adapter", "keep": "all"},
    "cross-attention": {"blocks": "cross-attention", "gates": "none", "keep": "all"},
    # Su 2022, kexue.fm/archives/9138: a small transformer of its own, fed by sums.
    "blog": {
        "blocks": "plain",
        "width": 128,
        "heads": 4,
        "keep": "4-blocks",
        "gates": "none",
        "fuse": "after",
        "biases": False,
        "head": "side",
    },
    # Not in any source: what the paper's ladder costs without what it need not keep.
    "lean": {"attention": "sdpa", "checkpoint": True, "rung_inputs": "int8"},
}


class LstConfig(MethodConfig):
    """Shape of the ladder."""

    variant: Literal[
        "paper",
        "side-tuning",
        "network-pruning",
        "adapter-blocks",
        "cross-attention",
        "blog",
        "lean",
    ] = Field("paper", description="a named choice of the options below; given ones override it")
    reduction: int = Field(8, gt=0, description="side widths are the backbone's divided by this")
    keep: str = Field(
        "paper",
        description="layers with a side block: paper, all, N-blocks (evenly), or 1-3,5-7,9-11",
    )
    blocks: Literal["native", "adapter", "cross-attention", "plain"] = Field(
        "native",
        description="side blocks: the backbone's kind made thin, or the other sources' designs",
    )
    width: int | None = Field(None, gt=0, description="width of plain blocks instead of reduction")
    heads: int = Field(4, gt=0, description="attention heads of plain blocks")
    gates: Literal["learned", "one", "none"] = Field(
        "learned",
        description="learned: mix side and rung; one: side alone, no rungs; none: their sum",
    )
    temperature: float = Field(0.1, gt=0, description="of the gates' sigmoid")
    fuse: Literal["before", "after"] = Field(
        "before", description="a rung joins before or after its side block"
    )
    biases: bool = Field(default=True, description="biases in entry, rungs and exit")
    merge: bool = Field(
        default=False, description="mix the backbone's final states in by one more gate"
    )
    head: Literal["backbone", "side"] = Field(
        "backbone",
        description="what reads it: the backbone's head, or a linear layer on the first token",
    )
    extra_input: Literal["side", "both"] = Field(
        "side",
        description="who sees an image's tokens: side network, or backbone, too (gradient cut)",
    )
    initialise: Literal["random", "magnitude", "fisher", "reserved"] = Field(
        "random",
        description="drawn; cut from the backbone (native blocks); or its folder's ladder",
    )
    backbone_dropout: bool = Field(default=True, description="leave dropout on in the backbone")
    attention: Literal["backbone", "sdpa"] = Field(
        "backbone", description="attention implementation of native side blocks"
    )
    checkpoint: bool = Field(
        default=False, description="recompute side blocks in backward instead of keeping them"
    )
    rung_inputs: Literal["full", "bf16", "int8"] = Field(
        "full", description="what a rung keeps of the backbone's output for its own gradient"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_variant(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return _VARIANTS.get(str(given.get("variant", "paper")), {}) | given

    @field_validator("keep")
    @classmethod
    def _parsable(cls, value: str) -> str:
        if value not in {"paper", "all"} and not _blocks(value):
            _parse_layers(value)
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> "LstConfig":
        native = self.blocks in {"native", "cross-attention"}
        if self.width is not None and self.blocks != "plain":
            raise ValueError("width is for blocks=plain; the others take reduction")
        if self.attention != "backbone" and not native:
            raise ValueError("attention is an option of native blocks")
        if self.cuts and not native:
            raise ValueError(f"initialise={self.initialise} is for native blocks")
        if self.blocks == "cross-attention" and self.gates == "learned":
            raise ValueError("blocks=cross-attention reads rungs by attention: take gates=none")
        if self.merge and self.head == "side":
            raise ValueError("merge gives the backbone's head states; head=side does not read them")
        return self

    def side_width(self, hidden_size: int) -> int:
        """D of the side network."""
        return self.width or hidden_size // self.reduction

    @property
    def cuts(self) -> bool:
        """Whether side blocks start as parts of the backbone."""
        return self.initialise in {"magnitude", "fisher"}

    @property
    def climbs(self) -> bool:
        """Whether the backbone's layers feed the side network at all."""
        return self.gates != "one"


def kept_layers(dims: Dims, stack: str, config: LstConfig) -> tuple[int, ...]:
    """Indices of the layers of `stack` that get a side block, ascending.

    `paper` is what the published scripts drop: of up to 12 layers every fourth, starting with
    layer 0; of more every second; all but the last in T5-3B and beyond, told by their width.
    `N-blocks` puts N side blocks at equal distances, the last at the top (the blog's 4).

    Raises:
        ValueError: a listed layer does not exist.
    """
    n = dims.stacks[stack].layers
    if config.keep == "all":
        return tuple(range(n))
    if config.keep == "paper":
        if dims.feed_forward_size >= 16_384:  # noqa: PLR2004 - T5-3B's
            return (n - 1,)
        if n > 12:  # noqa: PLR2004 - T5-base's
            return tuple(range(1, n, 2))
        return tuple(layer for layer in range(n) if layer % 4) or (n - 1,)
    if blocks := _blocks(config.keep):
        if blocks > n or n % blocks:
            raise ValueError(f"lst: keep={config.keep} does not divide the {stack}'s {n} layers")
        return tuple(range(n // blocks - 1, n, n // blocks))
    layers = _parse_layers(config.keep)
    if layers[-1] >= n:
        raise ValueError(f"lst: keep names layer {layers[-1]}; the {stack} has 0 to {n - 1}")
    return layers


def _blocks(text: str) -> int:
    """N of "N-blocks"; 0 if that is not what `text` says."""
    number, _, rest = text.partition("-")
    return int(number) if rest == "blocks" and number.isdigit() else 0


def _parse_layers(text: str) -> tuple[int, ...]:
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError("write paper, all, N-blocks, or layers such as 1-3,5-7,9-11")
        layers.update(range(int(first), int(last if dash else first) + 1))
    if not layers:
        raise ValueError("names no layer")
    return tuple(sorted(layers))
