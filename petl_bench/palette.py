"""How one series or category is told from another: colour first, then shape and dashes.

Figures and report take them from here, so that a method looks the same in both.
"""

from dataclasses import dataclass

from petl_bench.record import Category

LIGHT = (
    *("#07618c", "#ce6600", "#4b968f", "#9654e0"),
    *("#6c0000", "#122653", "#1e00b8", "#b40e3c"),
)
"""Colours of series on a light ground: each at least 3:1 against it (WCAG 2.2, 1.4.11), and every
pair apart (OKLab distance of 0.1) in normal sight, protanopia, deuteranopia and tritanopia
(Machado et al. 2009). Found by a search that keeps these bounds."""

DARK = (
    *("#83b5f7", "#ff9300", "#0ea0a5", "#a56ff5"),
    *("#ffdb21", "#bac9a3", "#63feff", "#f84e64"),
)
"""The same on a dark ground; pairs are 0.09 apart."""

CATEGORIES_LIGHT = {
    Category.PARAMETER: "#364f95",
    Category.BUFFER: "#2c2187",
    Category.GRADIENT: "#2a9268",
    Category.OPTIMIZER_STATE: "#8f5112",
    Category.ACTIVATION: "#d46213",
    Category.TEMPORARY: "#7e5fd9",
    Category.INPUT: "#a65ba3",
    Category.WORKSPACE: "#5e4f5f",
}
"""One colour a category on a light ground, within the bounds of LIGHT; pairs are 0.09 apart."""

CATEGORIES_DARK = {
    Category.PARAMETER: "#7b86b1",
    Category.BUFFER: "#5967d0",
    Category.GRADIENT: "#51b5a2",
    Category.OPTIMIZER_STATE: "#f5eb8c",
    Category.ACTIVATION: "#fe8438",
    Category.TEMPORARY: "#9bbcf8",
    Category.INPUT: "#d34325",
    Category.WORKSPACE: "#cdcab7",
}
"""The same on a dark ground."""

UNATTRIBUTED = "#7f8894"
"""Colour of bytes that no one told apart by category, on either ground."""

SHAPES = ("circle", "square", "diamond", "triangle")
DASHES = ("solid", "dashed", "dotted", "dashdot")


@dataclass(frozen=True)
class Look:
    """What a series looks like; two that share a colour differ in shape or dashes."""

    number: int  # of the colour, in LIGHT and DARK
    shape: str  # of SHAPES
    dash: str  # of DASHES

    @property
    def colour(self) -> str:
        """On a light ground."""
        return LIGHT[self.number]


def look(series: int) -> Look:
    """The look of series `series`, counted from 0: no two alike among the first 128."""
    rounds, number = divmod(series, len(LIGHT))
    turn, shape = divmod(rounds, len(SHAPES))
    return Look(number, SHAPES[shape], DASHES[(shape + turn) % len(DASHES)])
