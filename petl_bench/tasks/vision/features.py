"""Features of a task's images, made beforehand: of each, [G, F], float16 or float32.

    FOLDER/features.npy, images.txt   one array, [N, G, F]; N names, one a line, UTF-8
    FILE.safetensors, FILE.npz        an array an image, by its name
    FILE.h5, FILE.hdf5                likewise, or a group with a dataset `features` in it, as the
                                      code of Sung et al. 2022 writes them (needs h5py)

Legend: B batch, I images an example, G cells, F features of a cell.
"""

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from petl_bench.errors import UsageError

ARRAY, NAMES = "features.npy", "images.txt"
_DIMENSIONS = 3
_TYPES = (np.float16, np.float32)

Grid = npt.NDArray[np.floating[Any]]  # [G, F]


@dataclass(frozen=True)
class Features:
    """Features, [N, G, F], which stay on disk but for a .npz's, and the row of each image."""

    array: Any  # what has `shape` and gives the rows, [R, G, F], at a list of numbers
    rows: Mapping[str, int]

    @cached_property
    def sha256(self) -> str:
        """Hash of names and values, in order."""
        digest = hashlib.sha256("\n".join(self.rows).encode())
        for number in range(len(self.rows)):
            digest.update(np.ascontiguousarray(self.array[number]).tobytes())
        return digest.hexdigest()

    def batch(self, examples: Sequence[Sequence[str]]) -> npt.NDArray[np.float32]:
        """Of the images of each example, one after another, [B, I G, F]."""
        rows_BI = np.array([[self.rows[name] for name in names] for names in examples])
        found: npt.NDArray[np.float32] = self.array[rows_BI.reshape(-1)].astype(np.float32)
        return found.reshape(len(examples), -1, found.shape[-1])


class _OneByOne:
    """An array an image in a file that stays open, as if they were one."""

    def __init__(self, names: Sequence[str], read_one: Callable[[str], Grid]) -> None:
        self._names, self._read = names, read_one
        first = read_one(names[0])
        self.shape, self.dtype = (len(names), *first.shape), first.dtype

    def __getitem__(self, rows: Any) -> npt.NDArray[np.floating[Any]]:
        """One row, [G, F], or those at several numbers, [R, G, F]."""
        if np.ndim(rows) == 0:
            return self._one(self._names[rows])
        return np.stack([self._one(self._names[row]) for row in rows])

    def _one(self, name: str) -> Grid:
        found = self._read(name)
        if found.shape != self.shape[1:]:
            raise UsageError(
                f"data: features of {name!r} are {list(found.shape)}, those of"
                f" {self._names[0]!r} {list(self.shape[1:])}"
            )
        return found


def read(place: Path) -> Features:
    """The features in a folder or a file.

    Raises:
        UsageError: a file is missing or not what it should be, or they do not go together.
    """
    try:
        if place.suffix in _READERS and not place.is_dir():
            return _read_file(place)
        return _read_folder(place)
    except OSError as error:
        name, said = error.filename or place, error.strerror or error
        raise UsageError(f"data: cannot read {name}: {said}") from None


def _read_folder(folder: Path) -> Features:
    path, names_path = folder / ARRAY, folder / NAMES
    try:
        names = names_path.read_text(encoding="utf-8").splitlines()
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UsageError(f"data: {path} and {NAMES} are amiss: {error}") from None
    if array.ndim != _DIMENSIONS or array.dtype not in _TYPES:
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


def _read_file(path: Path) -> Features:
    if not path.is_file():
        raise UsageError(f"data: no file {str(path)!r}")
    try:
        names, read_one = _READERS[path.suffix](path)
        names = sorted(names)
        array = _OneByOne(names, read_one) if names else None
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        first = str(error).partition("\n")[0]
        raise UsageError(f"data: {path} is not what its name says: {first}") from None
    if array is None:
        raise UsageError(f"data: {path} holds no images")
    if len(array.shape) != _DIMENSIONS or array.dtype not in _TYPES:
        raise UsageError(
            f"data: {path}: {names[0]!r} is {array.dtype} of shape {array.shape[1:]},"
            " not float16 or float32 of [cells, features]"
        )
    return Features(array, {name: row for row, name in enumerate(names)})


_Opened = tuple[list[str], Callable[[str], Grid]]


def _safetensors(path: Path) -> _Opened:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - only for such a file

    try:
        file: Any = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(error) from None
    return list(file.keys()), file.get_tensor


def _npz(path: Path) -> _Opened:
    with np.load(path, allow_pickle=False) as file:  # no part of it could stay on disk
        grids = {name: file[name] for name in file}
    return list(grids), grids.__getitem__


def _hdf5(path: Path) -> _Opened:
    try:
        import h5py  # noqa: PLC0415 - of no extra
    except ImportError:
        raise UsageError(f"data: {path} needs h5py; pip install h5py") from None
    file = h5py.File(path, "r")

    datasets = {
        name: inside if isinstance(inside, h5py.Dataset) else inside["features"]
        for name, inside in file.items()
    }
    return list(datasets), lambda name: np.asarray(datasets[name])


_READERS: dict[str, Callable[[Path], _Opened]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}
ENDINGS = tuple(_READERS)
