"""Bytes and counts at the edge: the only place that knows how big a MiB is.

Everywhere else bytes are integers. Text uses binary units (IEC 80000-13): 1 KiB = 2**10 bytes.
"""

import re
from fractions import Fraction

KIB = 2**10
MIB = 2**20
GIB = 2**30
TIB = 2**40

PAPER_GB = 1000 * MIB
"""The "GB" of Sung, Cho & Bansal 2022: their code prints max_memory_allocated / 2**20 / 1000."""

_UNITS = {"B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def format_bytes(size: int) -> str:
    """`size` in bytes, in the largest binary unit that keeps it at 1 or above.

    >>> format_bytes(512), format_bytes(1536), format_bytes(14 * GIB)
    ('512 B', '1.50 KiB', '14.00 GiB')
    """
    if abs(size) < KIB:
        return f"{size} B"
    for name, unit in (("KiB", KIB), ("MiB", MIB), ("GiB", GIB)):
        if round(abs(size) / unit, 2) < 1024:  # noqa: PLR2004 - rounding may reach the next unit
            return f"{size / unit:.2f} {name}"
    return f"{size / TIB:.2f} TiB"


def parse_bytes(text: str) -> int:
    """Bytes named by `text`, such as "16GiB" or "2.5 MiB".

    >>> parse_bytes("16GiB") == 16 * GIB
    True

    Raises:
        ValueError: no number, or a unit other than B, KiB, MiB, GiB, TiB.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not a size; write a number and B, KiB, MiB, GiB or TiB")
    return round(Fraction(match[1]) * unit)


def format_count(count: int) -> str:
    """`count` with a metric suffix and at most four digits.

    >>> format_count(280_932), format_count(3_878_712), format_count(76)
    ('280.9 k', '3.88 M', '76')
    """
    if count < 1000:  # noqa: PLR2004
        return str(count)
    for suffix, unit in (("k", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12)):
        scaled = count / unit
        if round(scaled, 2) < 100:  # noqa: PLR2004 - rounding may add a digit
            return f"{scaled:.2f} {suffix}"
        if round(scaled, 1) < 1000:  # noqa: PLR2004
            return f"{scaled:.1f} {suffix}"
    return f"{scaled:.0f} T"
