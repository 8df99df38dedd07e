"""Papers by name: the files beside this one, and any file of the same form."""

import tomllib
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from petl_bench.errors import UsageError, hint
from petl_bench.papers.schema import Paper

_SUFFIX = ".toml"


def names() -> tuple[str, ...]:
    """Names of the built-in papers."""
    found = (entry.name for entry in files(__package__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def name_of(given: str) -> str:
    """The name under which the paper's report goes: a built-in one, or the file's own."""
    return given if given in names() else Path(given).stem


def find(given: str) -> Paper:
    """The built-in paper of that name, or the one in that TOML file.

    Raises:
        UsageError: neither; or the file cannot be read, is not TOML or not a paper.
    """
    if given in names():
        text = files(__package__).joinpath(given + _SUFFIX).read_text(encoding="utf-8")
        return _parse(text, given)
    path = Path(given)
    if path.suffix != _SUFFIX:
        raise UsageError(f"paper: no paper or TOML file {given!r}; {hint(given, names())}")
    try:
        return _parse(path.read_text(encoding="utf-8"), given)
    except OSError as error:
        raise UsageError(f"paper: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"paper: {path} is not UTF-8 text") from None


def _parse(text: str, given: str) -> Paper:
    try:
        return Paper.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"paper: {given} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "paper"
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"paper {given}: {where}: {message}") from None
