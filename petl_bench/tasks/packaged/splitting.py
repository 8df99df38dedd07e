"""A packaged data set's train, validation and test: drawn once and for all."""

import random
from collections.abc import Hashable, Iterable

from petl_bench.tasks.files import Row

_SEED = 42


def by_group(rows: Iterable[tuple[Hashable, Row]]) -> dict[str, list[Row]]:
    """Eight tenths of the groups, one and one; no group is in two splits.

    Within a split, rows keep their order.
    """
    rows = list(rows)
    groups = sorted({group for group, _ in rows}, key=str)
    random.Random(_SEED).shuffle(groups)  # noqa: S311 - a split, not a secret
    tenth = len(groups) // 10
    split_of = dict.fromkeys(groups[-tenth:], "validation")
    split_of |= dict.fromkeys(groups[-2 * tenth : -tenth], "test")
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for group, row in rows:
        splits[split_of.get(group, "train")].append(row)
    return splits
