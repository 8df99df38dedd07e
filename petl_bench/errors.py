"""Errors that are told apart: the user's to mend, and the device's to refuse."""

import difflib
from collections.abc import Iterable

NEAREST = 3  # names proposed for one that is not known


class UsageError(ValueError):
    """A request that cannot be carried out as written.

    Its message is one line that names the field and the choices. The CLI prints it and exits
    with code 2; a library caller catches it as a ValueError.
    """


def hint(name: str, known: Iterable[str], *, listed_by: str | None = None) -> str:
    """What to say of an unknown `name`: the names nearest to it, or else what there is.

    Args:
        name: what was asked for.
        known: what could have been.
        listed_by: the command that shows all of `known`, where they are too many for a line.

    >>> hint("loar", ("lora", "lst"))
    'did you mean lora?'
    >>> hint("a100", ("a10", "a100-40gb", "a100-80gb"))
    'did you mean a100-40gb or a100-80gb or a10?'
    >>> hint("zzz", ("t5-small", "t5-base"), listed_by="petl-bench backbones")
    'petl-bench backbones lists the 2 there are'
    """
    known = tuple(known)
    longer = [one for one in known if name and one.startswith(name)]
    near = dict.fromkeys([*longer, *difflib.get_close_matches(name, known, n=NEAREST)])
    if near:
        return f"did you mean {' or '.join([*near][:NEAREST])}?"
    if listed_by:
        return f"{listed_by} lists the {len(known)} there are"
    return f"there are: {', '.join(known)}"


class OutOfMemoryError(RuntimeError):
    """A device refused an allocation. That is a result, not a crash."""

    def __init__(self, *args: object, requested_bytes: int | None = None) -> None:
        super().__init__(*args)
        self.requested_bytes = requested_bytes
