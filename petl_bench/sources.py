"""Hashes of source files: which text a record's numbers came from."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256_of_files(folder: Path, files: Iterable[Path]) -> str:
    """Hash of `files`, which lie below `folder`: of their names there and their text, in order."""
    digest = hashlib.sha256()
    for name, file in sorted((file.relative_to(folder).as_posix(), file) for file in files):
        digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
