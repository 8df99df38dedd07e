"""Which module is at work: the calls under way, and whose method a frame is."""

import inspect
from collections.abc import Iterator, Mapping
from types import CodeType

from torch import nn


class ModuleCalls:
    """The module calls under way, and whose method a frame is.

    A method that runs while its module is not being called (from another module's hook, say) is
    its module's work nevertheless. Of several modules with that method it is the one whose parts
    were called last. A frame's `self` would tell, but to read `f_locals` keeps all that was in
    them alive (before Python 3.13), and so would change the memory that is to be explained.
    """

    def __init__(self, paths: Mapping[nn.Module, str]) -> None:
        self._stack: list[str] = []
        self._owners: dict[int, set[str]] = {}  # id of a method's code -> paths
        self._last_entered: dict[str, int] = {}
        self._within: dict[str, tuple[str, ...]] = {}  # a path and those above it
        self._entries = 0
        for module, path in paths.items():
            parts = path.split(".")
            self._within[path] = tuple(".".join(parts[:n]) for n in range(len(parts) + 1))
            for code in _methods(type(module)):
                self._owners.setdefault(id(code), set()).add(path)

    @property
    def under_way(self) -> bool:
        """Whether any module is being called."""
        return bool(self._stack)

    @property
    def innermost(self) -> str | None:
        """Path of the module that was called last."""
        return self._stack[-1] if self._stack else None

    def enter(self, path: str) -> None:
        """A call of the module at `path` begins."""
        self._stack.append(path)
        self._entries += 1
        for above in self._within[path]:
            self._last_entered[above] = self._entries

    def leave(self) -> None:
        """The innermost call ends."""
        self._stack.pop()

    def owners(self, code: CodeType) -> set[str] | None:
        """Paths of the modules that have `code` as a method."""
        return self._owners.get(id(code))

    def resolve(self, owners: set[str]) -> str:
        """Path of the module at work, where a method of `owners` is the innermost one running."""
        innermost = self._stack[-1]
        if any(path in owners for path in reversed(self._stack)):
            return innermost
        owner = max(sorted(owners), key=lambda path: self._last_entered.get(path, 0))
        return innermost if owner in self._within[innermost] else owner


def _methods(kind: type) -> Iterator[CodeType]:
    """Code of the methods of a module's class that are not nn.Module's."""
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for value in vars(base).values():
            function = inspect.unwrap(value) if callable(value) else None
            if inspect.isfunction(function):
                yield function.__code__
