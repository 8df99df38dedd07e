"""Errors that are told apart: the user's to mend, and the device's to refuse."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A request that cannot be carried out as written.

    Its message is one line that names the field and the choices. The CLI prints it and exits
    with code 2; a library caller catches it as a ValueError.
    """


def hint(name: str, known: Iterable[str]) -> str:
    """What to say of an unknown `name`: the names nearest to it, or all there are.

    >>> hint("loar", ("lora", "lst"))
    'did you mean lora?'
    """
    known = tuple(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"


class OutOfMemoryError(RuntimeError):
    """A device refused an allocation. That is a result, not a crash."""

    def __init__(self, *args: object, requested_bytes: int | None = None) -> None:
        super().__init__(*args)
        self.requested_bytes = requested_bytes
