"""Where an installed package's files lie."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from petl_bench.errors import UsageError


class Package(NamedTuple):
    """A package that holds data or weights."""

    module: str
    distribution: str
    extra: str  # of ours, that has it

    def version(self, field: str) -> str:
        """The installed one's.

        Raises:
            UsageError: it is not there; as `find`'s.
        """
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            raise self._missing(field) from None

    def find(self, field: str, *parts: str) -> Path:
        """The file or folder at `parts` inside; nothing of the package is run.

        Raises:
            UsageError: it is not there; the message begins with `field` and says what to install.
        """
        spec = find_spec(self.module)
        for place in (spec.submodule_search_locations if spec else None) or ():
            path = Path(place, *parts)
            if path.exists():
                return path
        raise self._missing(field)

    def _missing(self, field: str) -> UsageError:
        return UsageError(
            f"{field}: needs the package {self.distribution};"
            f" pip install petl-bench[{self.extra}], or give --backbone and --data"
        )
