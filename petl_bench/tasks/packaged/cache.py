"""Folders that are made once from what a package holds, and kept for all runs of a user."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from petl_bench.errors import UsageError


def home() -> Path:
    """`petl-bench` in the user's folder for caches, which XDG_CACHE_HOME may name."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "petl-bench"


def made(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name`, filled by `make` where it is not there yet.

    It is filled under another name and then renamed, so that it is whole or not there, and two
    processes may make it at once. `name` tells all that its content depends on.

    Raises:
        UsageError: the disk does not take it.
    """
    folder = home() / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            make(scratch)
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"cache: cannot write {folder}: {error.strerror or error}") from None
    return folder
