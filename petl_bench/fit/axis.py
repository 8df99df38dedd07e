"""Batches, lengths or backbones as cases, one a place from 1 on."""

from enum import StrEnum

from petl_bench import backbones
from petl_bench.backbones import FAMILIES
from petl_bench.case import Backbone, Case
from petl_bench.errors import UsageError
from petl_bench.method_spec import fitted, parse_specs
from petl_bench.suite import PlannedCase


class Vary(StrEnum):
    """What is made as large as fits."""

    BATCH = "batch"
    LENGTH = "length"
    BACKBONE = "backbone"


FIELD = {Vary.BATCH: "batch_size", Vary.LENGTH: "source_length_tokens"}
"""Of the workload."""

_LARGEST = {Vary.BATCH: 65_536, Vary.LENGTH: 32_768}
"""Where a search ends; nobody trains there."""

_DEGREE = {Vary.BATCH: 1, Vary.LENGTH: 2}
_START = {Vary.BATCH: 2, Vary.LENGTH: 16}  # not 1, where some copies are views


def axis_of_backbones(backbone: Backbone) -> list[Backbone]:
    """The built-in backbones of `backbone`'s family by size, each stored and run as it is.

    Raises:
        UsageError: there are none.
    """
    family = FAMILIES[backbone.family]
    found = [
        backbones.find(
            name,
            dtype=backbone.dtype,
            attention=backbone.attention,
            quantize=backbone.quantize,
        )
        for name in family.published
    ]
    if not found:
        raise UsageError(f"vary: no backbone like {backbone.name} is built in")
    return sorted(found, key=lambda each: family.dims(each.config).total_parameters)


class Axis:
    """What varies of one method's case."""

    def __init__(self, planned: PlannedCase, vary: Vary) -> None:
        """`last` is its last place, `start` the one to begin a search at.

        `degree` is that of storages' sizes along it, None where they have none.

        Raises:
            UsageError: backbones are to vary, and none is built in of the family asked for.
        """
        self._planned = planned
        self._vary = vary
        self._step = 1  # examples; a batch is made of equal parts
        self._backbones: list[Backbone] = []
        case = planned.case
        if vary is Vary.BACKBONE:
            self._backbones = axis_of_backbones(case.backbone)
            self.last = len(self._backbones)
        elif vary is Vary.BATCH:
            self._step = case.workload.accumulation_steps
            self.last = _LARGEST[vary] // self._step
        else:
            longest = FAMILIES[case.backbone.family].longest(case.backbone.config)
            self.last = min(_LARGEST[vary], longest or _LARGEST[vary])
        self.start = _START.get(vary, (1 + self.last) // 2)
        self.degree = _DEGREE.get(vary)

    def case(self, place: int) -> Case:
        """The case at `place`."""
        asked = self._planned.case
        if self._vary is Vary.BACKBONE:
            backbone = self._backbones[place - 1]
            ((_, choice),) = parse_specs(self._planned.label)
            return Case(
                backbone=backbone,
                method=fitted(choice, backbone),
                workload=backbones.fitted(backbone, asked.workload),
            )
        workload = asked.workload.model_copy(update={FIELD[self._vary]: self.position(place)})
        return asked.model_copy(update={"workload": workload})

    def name(self, place: int) -> str:
        """The batch, the length in tokens, or the backbone's name."""
        return self._backbones[place - 1].name if self._backbones else str(self.position(place))

    def position(self, place: int) -> int:
        """The batch, the length in tokens, or the backbone's number by size."""
        return place * self._step
