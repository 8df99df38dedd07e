"""Colours of series: they stand out from the ground, and from each other in any sight."""

import re
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest

from petl_bench.palette import CATEGORIES_DARK, CATEGORIES_LIGHT, DARK, LIGHT, UNATTRIBUTED, look
from petl_bench.plots.drawing import ACCENT, BEATEN
from petl_bench.record import Category

# Severity 1.0 of Machado, Oliveira & Fernandes 2009, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
GROUNDS = {"light": LIGHT, "dark": DARK}
CATEGORIES = {"light": CATEGORIES_LIGHT, "dark": CATEGORIES_DARK}


def _linear(colour):
    """Linear RGB of a CSS colour such as #1b2430 (IEC 61966-2-1)."""
    parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def _contrast(one, other):
    """Contrast ratio (WCAG 2.2)."""
    low, high = sorted(float(_linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def _oklab(linear):
    """Ottosson 2020, https://bottosson.github.io/posts/oklab/."""
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    axes = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return axes @ np.cbrt(cones @ np.clip(linear, 0, 1))


def _grounds(theme):
    css = files("petl_bench.report").joinpath("report.css").read_text()
    block = css.split(":root {")[1 + list(GROUNDS).index(theme)].split("}")[0]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    return [colours["page"], colours["card"]], [colours["accent"], colours["beaten"]]


@pytest.mark.parametrize("theme", GROUNDS)
def test_every_colour_stands_out_from_the_ground(theme):
    grounds, points = _grounds(theme)
    drawn = {"light": ["#ffffff"], "dark": []}[theme]  # what figures are drawn on
    bands = *CATEGORIES[theme].values(), UNATTRIBUTED
    for colour in (*GROUNDS[theme], *bands, *points, *((ACCENT, BEATEN) if drawn else ())):
        for ground in (*grounds, *drawn):
            assert _contrast(colour, ground) >= 3, (colour, ground)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", GROUNDS)
@pytest.mark.parametrize("kind", ["series", "categories"])
def test_every_pair_is_told_apart_in_any_sight(kind, theme, sight):
    colours = GROUNDS[theme] if kind == "series" else CATEGORIES[theme].values()
    seen = [_oklab(SIGHT[sight] @ _linear(colour)) for colour in colours]
    least = min(np.linalg.norm(one - other) for one, other in combinations(seen, 2))
    assert least >= 0.09


@pytest.mark.parametrize("theme", GROUNDS)
def test_every_category_has_a_colour(theme):
    assert list(CATEGORIES[theme]) == list(Category)


def test_the_measure_of_distance_knows_colours_that_are_confused():
    red, green = (_oklab(SIGHT["deuteranopia"] @ _linear(c)) for c in ("#c8500a", "#8a6d00"))
    assert np.linalg.norm(red - green) < 0.09  # the palette before this one had both


def test_no_two_series_look_alike():
    assert len({look(series) for series in range(128)}) == 128
    assert [look(series).shape for series in range(9)] == ["circle"] * 8 + ["square"]
