"""Python's search for reference cycles, and when it is in the way."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 100_000
"""Values that are worth being kept out of the next search, whose count takes 50 ms in a worker."""


@contextmanager
def collection_paused() -> Iterator[None]:
    """No search for cycles inside: among many values without any it takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if gc.get_count()[0] > MANY and not gc.get_freeze_count():  # nobody's are frozen
                gc.freeze()
                gc.unfreeze()  # moves all of it, unseen, to what is looked through least often
            gc.enable()


def collection_resumed() -> None:
    """Something long begins: search again, but not in what was imported and read so far."""
    gc.freeze()
    gc.enable()
