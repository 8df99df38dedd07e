"""The one error that is the user's to mend."""


class UsageError(ValueError):
    """A request that cannot be carried out as written.

    Its message is one line that names the field and the choices. The CLI prints it and exits
    with code 2; a library caller catches it as a ValueError.
    """
