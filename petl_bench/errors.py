"""Errors that are told apart: the user's to mend, and the device's to refuse."""


class UsageError(ValueError):
    """A request that cannot be carried out as written.

    Its message is one line that names the field and the choices. The CLI prints it and exits
    with code 2; a library caller catches it as a ValueError.
    """


class OutOfMemoryError(RuntimeError):
    """A device refused an allocation. That is a result, not a crash."""

    def __init__(self, *args: object, requested_bytes: int | None = None) -> None:
        super().__init__(*args)
        self.requested_bytes = requested_bytes
