"""Names to methods: the files in methods/, then entry points of installed packages.

A file `methods/NAME.py` is the method NAME if it ends in `METHOD = Method(name="NAME", ...)`, and
so is a folder `methods/NAME/` whose `__init__.py` has that METHOD. Other packages offer theirs as
entry points of the group "petl_bench.methods".
"""

import hashlib
import inspect
import pkgutil
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from petl_bench.errors import UsageError, hint
from petl_bench.method import Method
from petl_bench.sources import sha256_of_files

_SCHEMES = {"peft": "petl_bench.peft_methods"}
"""Packages that find methods by what follows `SCHEME:`, and name those that they know."""

_PACKAGE = "petl_bench.methods"
_GROUP = "petl_bench.methods"


@cache
def _locations() -> dict[str, str]:
    """Method name to "module:attribute", sorted, without importing any."""
    package = import_module(_PACKAGE)
    found = {m.name: f"{_PACKAGE}.{m.name}:METHOD" for m in pkgutil.iter_modules(package.__path__)}
    for point in entry_points(group=_GROUP):
        if point.name in found:
            raise UsageError(f"method {point.name!r}: {point.value} repeats a known name")
        found[point.name] = point.value
    return dict(sorted(found.items()))


def names(scheme: str | None = None) -> tuple[str, ...]:
    """All method names, in alphabetical order; of a `scheme`, those that need no file."""
    if scheme is None:
        return tuple(_locations())
    known: tuple[str, ...] = import_module(_SCHEMES[scheme]).names()
    return tuple(f"{scheme}:{name}" for name in known)


def schemes() -> tuple[str, ...]:
    """What may stand before a colon in a method's name."""
    return tuple(_SCHEMES)


@cache
def get(name: str) -> Method[Any]:
    """The method called `name`, or found at `SCHEME:ADDRESS`.

    Raises:
        UsageError: no such method; the message names the nearest ones.
    """
    scheme, colon, address = name.partition(":")
    if colon and scheme in _SCHEMES:
        found: Method[Any] = import_module(_SCHEMES[scheme]).find(address)
        return found
    location = _locations().get(name)
    if location is None:
        raise UsageError(f"method: no method {name!r}; {hint(name, names())}")
    module, _, attribute = location.partition(":")
    try:
        method = getattr(import_module(module), attribute, None)
    except Exception as error:
        kind = type(error).__name__
        raise UsageError(f"method {name!r}: {location} fails to import: {kind}: {error}") from error
    if not isinstance(method, Method) or method.name != name:
        raise UsageError(f"method {name!r}: {location} is not a Method of that name")
    return method


def source_sha256(method: Method[Any]) -> str:
    """Hash of the text that `method` is, so that a record can tell which text it ran.

    Of the file that defines its `attach`; of all its files where the method is a folder.
    """
    scheme, colon, _ = method.name.partition(":")
    location = _SCHEMES[scheme] if colon else _locations()[method.name]
    home = sys.modules[location.partition(":")[0]]
    file = Path(inspect.getsourcefile(home) or "")
    if file.name == "__init__.py":
        return sha256_of_files(file.parent, file.parent.rglob("*.py"))
    module = sys.modules[method.attach.__module__]
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
