"""Features of a task's images, made beforehand: one array, and the images' names beside it.

    FOLDER/features.npy   [N, G, F], float16 or float32: images, cells of a grid, their features
    FOLDER/images.txt     N names, one a line, UTF-8

Legend: B batch, I images an example, G cells, F features of a cell.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from petl_bench.errors import UsageError

ARRAY, NAMES = "features.npy", "images.txt"
_DIMENSIONS = 3


@dataclass(frozen=True)
class Features:
    """Features, [N, G, F], which stay on disk, and the row of each image."""

    array: npt.NDArray[np.floating[Any]]  # [N, G, F]
    rows: dict[str, int]

    @cached_property
    def sha256(self) -> str:
        """Hash of names and values, in order."""
        digest = hashlib.sha256("\n".join(self.rows).encode())
        for features_GF in self.array:
            digest.update(features_GF.tobytes())
        return digest.hexdigest()

    def batch(self, examples: Sequence[Sequence[str]]) -> npt.NDArray[np.float32]:
        """Of the images of each example, one after another, [B, I G, F]."""
        rows_BI = np.array([[self.rows[name] for name in names] for names in examples])
        found: npt.NDArray[np.float32] = self.array[rows_BI].astype(np.float32)
        return found.reshape(len(examples), -1, found.shape[-1])


def read(folder: Path) -> Features:
    """The features in `folder`.

    Raises:
        UsageError: a file is missing or not what it should be, or they do not go together.
    """
    path, names_path = folder / ARRAY, folder / NAMES
    try:
        names = names_path.read_text(encoding="utf-8").splitlines()
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UsageError(f"data: cannot read {error.filename}: {error.strerror}") from None
    except (ValueError, EOFError) as error:
        raise UsageError(f"data: {path} and {NAMES} are amiss: {error}") from None
    if array.ndim != _DIMENSIONS or array.dtype not in (np.float16, np.float32):
        raise UsageError(
            f"data: {path} is {array.dtype} of shape {array.shape},"
            " not float16 or float32 of [images, cells, features]"
        )
    rows = {name: row for row, name in enumerate(names)}
    if not len(rows) == len(names) == len(array):
        raise UsageError(
            f"data: {path} has {len(array)} images, {NAMES} {len(names)} names, {len(rows)} of"
            " them different"
        )
    return Features(array, rows)
