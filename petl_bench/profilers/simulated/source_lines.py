"""Which line of code is at work, outside of torch and of the simulator."""

from types import CodeType, FrameType

# Of the frames in these packages, none is "the line".
_SKIPPED = ("torch", __package__, "petl_bench.own")


class SourceLines:
    """Which frames may be "the line", and the name of their file."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[CodeType, str | None]] = {}  # by id: hashing code is slow

    def first(self, frame: FrameType | None) -> FrameType | None:
        """`frame`, or the nearest one that called it from outside torch and the simulator."""
        while frame is not None:
            known = self._files.get(id(frame.f_code))
            if (self._file(frame) if known is None else known[1]) is not None:
                return frame
            frame = frame.f_back
        return None

    def file(self, frame: FrameType) -> str | None:
        """The frame's file, as its package knows it."""
        return self._files[id(frame.f_code)][1]

    def _file(self, frame: FrameType) -> str | None:
        module = frame.f_globals.get("__name__", "")
        skipped = any(module == name or module.startswith(f"{name}.") for name in _SKIPPED)
        file = None if skipped else _file_in_package(frame.f_code.co_filename, module)
        self._files[id(frame.f_code)] = frame.f_code, file  # the code, so that its id stays its own
        return file


def _file_in_package(path: str, module: str) -> str:
    """`path` from the package on that `module` is in, so that it is the same on every machine.

    >>> _file_in_package("/any/site-packages/transformers/cache.py", "transformers.cache")
    'transformers/cache.py'
    >>> _file_in_package("/any/checkout/methods/lst.py", "petl_bench.methods.lst")
    'methods/lst.py'
    """
    parts = path.replace("\\", "/").split("/")
    names = module.split(".")
    if parts[-1] == "__init__.py":
        names.append("__init__")
    shared = 1
    while shared < min(len(parts), len(names)) and parts[-1 - shared] == names[-1 - shared]:
        shared += 1
    return "/".join(parts[-shared:])
