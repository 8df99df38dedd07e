"""Learning rates as they are asked for: one for all methods, or one each.

1e-3                       every method
full=1e-4,lora[r=8]=2e-3   a method, by its name or as it is written; others keep their own
1e-3,lst=3e-3              one method apart from the others
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from petl_bench import registry
from petl_bench.case import MethodChoice
from petl_bench.errors import UsageError, hint
from petl_bench.method_spec import split_specs


@dataclass(frozen=True)
class Rates:
    """What was asked for; without anything, each method's own rate holds."""

    default: float | None = None
    named: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, label: str, choice: MethodChoice) -> float:
        """For one choice of a method: by its label, else by its name, else the default."""
        for name in (label, choice.name):
            if name in self.named:
                return self.named[name]
        if self.default is not None:
            return self.default
        return registry.get(choice.name).learning_rate

    def check(self, choices: Iterable[tuple[str, MethodChoice]]) -> None:
        """Refuse a rate for a method that is not trained.

        Raises:
            UsageError: there is one.
        """
        known = dict.fromkeys(name for label, choice in choices for name in (choice.name, label))
        for name in self.named:
            if name not in known:
                raise UsageError(f"learning_rate: {name!r} is not trained; {hint(name, known)}")


def parse(text: str) -> Rates:
    """The rates in `text`.

    Raises:
        UsageError: what is no number, or a method or the default twice.
    """
    default: float | None = None
    named: dict[str, float] = {}
    for part in split_specs(text):
        name, _, number = part.rpartition("=")
        name = name.strip()
        try:
            rate = float(number)
        except ValueError:
            raise UsageError(
                f"learning_rate: cannot read {part!r}; write 1e-3, or full=1e-4,lora=2e-3"
            ) from None
        if name in named or (not name and default is not None):
            raise UsageError(f"learning_rate: {name or 'the default'} is given twice")
        if name:
            named[name] = rate
        else:
            default = rate
    if default is None and not named:
        raise UsageError("learning_rate: none given; write 1e-3, or full=1e-4,lora=2e-3")
    return Rates(default, named)
