"""The ladder beside a backbone, as docs/lst.md shows it: python docs/draw_ladder.py.

Drawn from the kept layers that `methods/lst` itself computes for T5-base's encoder.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from petl_bench.methods.lst.config import LstConfig, kept_layers

from petl_bench.backbones import FAMILIES, find
from petl_bench.plots.drawing import ACCENT, BAND, FADED, INK

FROZEN, SIDE, STEP = 0.0, 4.0, 1.0  # columns, and the height of a layer
ORANGE = "#EE7733"


def box(axes: Axes, x: float, y: float, width: float, text: str, *, frozen: bool) -> None:
    """A module, centred at x; frozen ones are grey."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.3),
            width,
            0.6,
            boxstyle="round,pad=0.02,rounding_size=0.08",
            facecolor=BAND if frozen else "#FDEBDD",
            edgecolor=FADED if frozen else ORANGE,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=FADED if frozen else INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """From one module to the next."""
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=colour, linewidth=1)
    )


def draw() -> Figure:
    """Backbone on the left, side network on the right, a rung for each kept layer."""
    backbone = find("t5-base")
    dims = FAMILIES[backbone.family].dims(backbone.config)
    kept = kept_layers(dims, "encoder", LstConfig())
    layers = dims.stacks["encoder"].layers
    figure = Figure(figsize=(6.4, 8.2), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    box(axes, FROZEN, 0, 2.4, f"embedding, {dims.hidden_size}", frozen=True)
    box(axes, SIDE, 0, 1.1, f"$s$, {dims.hidden_size // 8}", frozen=False)
    arrow(axes, (1.2, 0), (SIDE - 0.55, 0), ORANGE)
    axes.text(2.3, 0.08, r"$W_{in}$", fontsize=9, color=INK)
    below = 0.0
    for layer in range(layers):
        y = (layer + 1) * STEP
        box(axes, FROZEN, y, 2.4, f"layer {layer}", frozen=True)
        arrow(axes, (FROZEN, y - STEP + 0.3), (FROZEN, y - 0.3), FADED)
        if layer in kept:
            box(axes, SIDE, y, 1.1, f"block {layer}", frozen=False)
            arrow(axes, (SIDE, below + 0.3), (SIDE, y - 0.3), ACCENT)
            arrow(axes, (1.2, y), (SIDE - 0.55, y), ORANGE)
            axes.text(2.0, y + 0.08, rf"$(1-\mu_{{{layer}}})\,W_{{{layer}}}h$", fontsize=8)
            below = y
    top = (layers + 1) * STEP
    box(axes, SIDE, top, 1.5, r"norm, $W_{out}$", frozen=False)
    arrow(axes, (SIDE, below + 0.3), (SIDE, top - 0.3), ACCENT)
    box(axes, SIDE, top + STEP, 1.5, "head", frozen=True)
    arrow(axes, (SIDE, top + 0.3), (SIDE, top + STEP - 0.3), FADED)
    axes.text(
        FROZEN,
        top + STEP,
        "frozen: only what rungs read\nis kept for backward",
        ha="center",
        color=FADED,
    )
    axes.text(SIDE + 0.85, top / 2, "trained", color=ORANGE, rotation=90, va="center")
    axes.set(xlim=(-1.6, SIDE + 1.4), ylim=(-0.6, top + STEP + 0.8))
    axes.axis("off")
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("ladder.svg"), metadata={"Date": None})
