"""What is alive at the peak as values: every tensor, ways to group them, what sets two apart.

All sizes are bytes of the caching allocator's blocks, so that each way to group them sums to the
peak. Modules go by the backbone's own names, whatever a method wraps around them; "(model)" is
the backbone itself, and what belongs to no module has a name in parentheses, too.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from pydantic import model_validator

from petl_bench.case import Case, Frozen
from petl_bench.record import Category, Phase
from petl_bench.units import format_bytes

_PLURALS = {
    Category.PARAMETER: "parameters",
    Category.BUFFER: "buffers",
    Category.GRADIENT: "gradients",
    Category.OPTIMIZER_STATE: "optimizer state",
    Category.ACTIVATION: "activations",
    Category.TEMPORARY: "temporaries",
    Category.INPUT: "inputs",
    Category.WORKSPACE: "workspaces",
}


class LiveTensor(Frozen):
    """One storage alive at the peak."""

    allocated_bytes: int  # of its block
    category: Category
    module: str  # that made it, or, of what has a name, that owns it
    operator: str  # that allocated it
    source: str  # the line of code that called the operator
    in_backward: bool = False  # made by the backward pass of `module` at `source`
    name: str | None = None  # of a parameter, its gradient or optimizer state; an input's key


class Explanation(Frozen):
    """What one case keeps alive at its highest moment."""

    case: Case
    label: str  # the method as it was asked for
    device: str  # the card that is simulated
    emulates: str | None = None  # the era of PyTorch; None: today's
    phase: Phase  # of the measured steps' overall peak
    peak_allocated_bytes: int
    by_category: dict[Category, int]
    by_module: dict[str, int]  # collapsed
    by_operator: dict[str, int]
    by_source: dict[str, int]
    tensors: tuple[LiveTensor, ...]  # largest first

    @model_validator(mode="after")
    def _sums(self) -> "Explanation":
        views = (self.by_category, self.by_module, self.by_operator, self.by_source)
        totals = {sum(view.values()) for view in views}
        if totals | {sum(t.allocated_bytes for t in self.tensors)} != {self.peak_allocated_bytes}:
            raise ValueError("every view must sum to peak_allocated_bytes")
        return self

    @property
    def headline(self) -> str:
        """The peak, when it is, and what most of it is, in one sentence."""
        category, size = next(iter(self.by_category.items()))
        of_category = (tensor for tensor in self.tensors if tensor.category is category)
        most, in_part = next(iter(totals(of_category, part).items()))
        return (
            f"{self.label} on {self.case.backbone.name} peaks at {_peak(self)}:"
            f" {format_bytes(size)} are {_PLURALS[category]}, {format_bytes(in_part)} of them in"
            f" {most}."
        )


class Band(Frozen):
    """One tensor's time in the step; its events count from the step's first."""

    tensor: LiveTensor
    born: int  # -1 for what was there before
    died: int | None  # None for what stays


class Moment(Frozen):
    """The highest moment of one stretch of the step."""

    event: int
    phase: Phase
    rest: dict[Category, int]  # allocated bytes beside the bands


class StepTimeline(Frozen):
    """A case's step, its main tensors told apart; rest and bands alive sum to allocated."""

    label: str
    moments: tuple[Moment, ...]
    bands: tuple[Band, ...]  # by bytes and time alive, most first
    tensors: int  # in all: those of the bands, and those that are in the rest

    def alive(self, band: Band) -> list[bool]:
        """At which moments `band` is there."""
        return [
            band.born <= moment.event and (band.died is None or moment.event < band.died)
            for moment in self.moments
        ]


class Change(Frozen):
    """Bytes alive at the first case's peak beyond those at the second's; below 0, the reverse."""

    allocated_bytes: int
    category: Category
    module: str  # collapsed
    operator: str


class Difference(Frozen):
    """What sets the peaks of two cases apart."""

    first: str  # label
    second: str
    first_peak_allocated_bytes: int
    second_peak_allocated_bytes: int
    summary: str  # one sentence
    changes: tuple[Change, ...]  # the largest, either way, first

    @model_validator(mode="after")
    def _sums(self) -> "Difference":
        apart = self.first_peak_allocated_bytes - self.second_peak_allocated_bytes
        if sum(change.allocated_bytes for change in self.changes) != apart:
            raise ValueError("changes must sum to the difference of the peaks")
        return self


class Comparison(Frozen):
    """Two explanations and their difference."""

    first: Explanation
    second: Explanation
    difference: Difference


class Kind(NamedTuple):
    """What tensors have in common that differ in their layer alone."""

    category: Category
    module: str  # collapsed
    operator: str
    source: str
    in_backward: bool


def difference(first: Explanation, second: Explanation) -> Difference:
    """What `first` has alive at its peak beyond `second`."""
    sizes: Counter[tuple[Category, str, str]] = Counter()
    for sign, explanation in ((1, first), (-1, second)):
        for tensor in explanation.tensors:
            key = tensor.category, collapsed(tensor.module), tensor.operator
            sizes[key] += sign * tensor.allocated_bytes
    changes = [
        Change(category=category, module=module, operator=operator, allocated_bytes=size)
        for (category, module, operator), size in sizes.items()
        if size
    ]
    changes.sort(key=lambda c: (-abs(c.allocated_bytes), c.category, c.module, c.operator))
    return Difference(
        first=first.label,
        second=second.label,
        first_peak_allocated_bytes=first.peak_allocated_bytes,
        second_peak_allocated_bytes=second.peak_allocated_bytes,
        summary=_summary(first, second, changes),
        changes=tuple(changes),
    )


def _summary(first: Explanation, second: Explanation, changes: list[Change]) -> str:
    """The two peaks, and the most that each keeps that the other does not."""
    sizes = totals(changes, lambda change: (change.category, part(change)))
    kept = []
    for has, lacks, sign in ((first.label, second.label, 1), (second.label, first.label, -1)):
        beyond = {what: sign * size for what, size in sizes.items() if sign * size > 0}
        if beyond:
            (category, where), size = max(beyond.items(), key=lambda pair: pair[1])
            what = f"{format_bytes(size)} of {where} {_PLURALS[category]}"
            kept.append((size, f"{has} keeps {what} that {lacks} does not"))
    kept.sort(reverse=True)
    what = "; ".join(text for _, text in kept) or "both keep the same"
    return f"{first.label} peaks at {_peak(first)}, {second.label} at {_peak(second)}: {what}."


def _peak(found: Explanation) -> str:
    return f"{format_bytes(found.peak_allocated_bytes)} in {found.phase.replace('_', ' ')}"


# --- ways to group ------------------------------------------------------------------------------

Item = TypeVar("Item", LiveTensor, Change)
Key = TypeVar("Key", bound=Hashable)


def totals(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, int]:
    """Bytes of `items` by `key`, most first."""
    sizes: dict[Key, int] = defaultdict(int)
    for item in items:
        sizes[key(item)] += item.allocated_bytes
    return dict(sorted(sizes.items(), key=lambda pair: (-pair[1], str(pair[0]))))


def kind(tensor: LiveTensor) -> Kind:
    """The tensor's kind."""
    module = collapsed(tensor.module)
    return Kind(tensor.category, module, tensor.operator, tensor.source, tensor.in_backward)


def collapsed(module: str, depth: int | None = None) -> str:
    """`module` with its layer's number left out, cut to `depth` steps; a number is no step.

    >>> collapsed("encoder.block.3.layer.0.SelfAttention.q")
    'encoder.block.*.layer.0.SelfAttention.q'
    >>> collapsed("encoder.block.3.layer.0.SelfAttention.q", depth=2)
    'encoder.block.*'
    """
    return ".".join(steps(module)[:depth])


def steps(module: str) -> list[str]:
    """The steps of a module's path, its layer's number left out.

    >>> steps("encoder.block.3.layer.0.SelfAttention")
    ['encoder', 'block.*', 'layer.0', 'SelfAttention']
    """
    if ".*" not in module:
        module = re.sub(r"\.\d+(?=\.|$)", ".*", module, count=1)
    return re.split(r"\.(?![\d*])", module)


class Branch(NamedTuple):
    """A module in the tree of modules, with all that is below it."""

    depth: int  # 0 at the top
    steps: str  # from the branch above
    allocated_bytes: int


def module_tree(by_module: dict[str, int], smallest_bytes: int) -> Iterator[Branch]:
    """Modules with `smallest_bytes` or more, each below the one that it is part of."""
    parts = [(tuple(steps(module)), size) for module, size in by_module.items()]
    yield from _branches(parts, 0, 0, smallest_bytes)


def _branches(
    parts: list[tuple[tuple[str, ...], int]], level: int, depth: int, smallest_bytes: int
) -> Iterator[Branch]:
    below: dict[str, list[tuple[tuple[str, ...], int]]] = defaultdict(list)
    for part in parts:
        if len(part[0]) > level:
            below[part[0][level]].append(part)
    sizes = {step: sum(size for _, size in inside) for step, inside in below.items()}
    for step, size in sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0])):
        if size >= smallest_bytes:
            # A module that has only one part, and nothing of its own, is shown with that part.
            shared = _shared_steps([path for path, _ in below[step]])
            yield Branch(depth, ".".join(below[step][0][0][level:shared]), size)
            yield from _branches(below[step], shared, depth + 1, smallest_bytes)


def _shared_steps(paths: list[tuple[str, ...]]) -> int:
    shortest = min(map(len, paths))
    return next((n for n in range(shortest) if len({path[n] for path in paths}) > 1), shortest)


def part(item: LiveTensor | Change) -> str:
    """The part of the model: encoder, decoder, what a method put beside them."""
    return collapsed(item.module, depth=1)
