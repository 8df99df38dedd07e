"""Reading many records: what repeats from line to line is validated once.

The records of a store share backbones, methods, workloads and places. Their texts are cut out of a
line by the names around them, and looked up. The cuts are right if every piece is valid for its
field and so is what remains: a name in its quotes cannot stand inside a string. Any other line, in
another order or spelling than ours or with something amiss, is read the plain way, which also has
the words for it.
"""

from typing import TypeVar

from pydantic import TypeAdapter
from pydantic_core import from_json

from petl_bench.case import Backbone, Case, Frozen, MethodChoice, Workload, canonical, id_of_case
from petl_bench.record import Environment, Measurement, Record, load_record_json

T = TypeVar("T", bound=Frozen)


class RecordReader:
    """Loads lines; their records share what is the same in them, down to the object."""

    def __init__(self) -> None:
        self._backbones = _Known(Backbone)
        self._methods = _Known(MethodChoice)
        self._workloads = _Known(Workload)
        self._places = _Known(Environment)

    def __call__(self, line: bytes) -> Record:
        """The record in a line of JSON, as `load_record_json` gives it.

        Raises:
            ValueError: not a record, or one of a newer schema.
        """
        try:
            return self._assembled(line)
        except ValueError:
            return load_record_json(line)

    def _assembled(self, line: bytes) -> Record:
        """The record in a line that is written as we write it.

        Raises:
            ValueError: it is not, or is not a record.
        """
        pieces, rest = _cut(line)
        values = from_json(rest)
        if any(values[name] != nothing for name, nothing in _CUT_OUT.items()):
            raise ValueError("a field comes twice")
        backbone, backbone_json = self._backbones[pieces[0]]
        method, method_json = self._methods[pieces[1]]
        workload, workload_json = self._workloads[pieces[2]]
        values["case_id"] = id_of_case(backbone_json, method_json, workload_json)
        values["case"] = Case(backbone=backbone, method=method, workload=workload)
        values["environment"], _ = self._places[pieces[3]]
        values["measurement"] = _measurement(pieces[4])
        return Record.model_validate(values)


class _Known(dict[bytes, tuple[T, str]]):
    """Values of one type by their text, each with its canonical JSON."""

    def __init__(self, model: type[T]) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, text: bytes) -> tuple[T, str]:
        value = self._model.model_validate_json(text)
        self[text] = value, canonical(value)
        return self[text]


def _cut(line: bytes) -> tuple[list[bytes], bytes]:
    """The pieces that `_BOUNDS` enclose, and `line` with null instead of them.

    Raises:
        ValueError: a bound is not there.
    """
    pieces, rest, at = [], [], 0
    for before, after in _BOUNDS[:-1]:
        start = line.index(before, at) + len(before)
        stop = line.index(after, start)
        pieces.append(line[start:stop])
        rest += [line[at:start], b"null"]
        at = stop
    before, after = _BOUNDS[-1]
    start = line.index(before, at) + len(before)
    stop = line.rindex(after, start)  # most of a line lies between
    pieces.append(line[start:stop])
    return pieces, b"".join([*rest, line[at:start], b"null", line[stop:]])


def _measurement(text: bytes) -> Measurement | None:
    """The measurement in `text`; a last step that reads like the one before it is the same."""
    begin = text.find(b'"steps":[')
    stop = text.find(b"]", begin)  # no step has a list
    comma = text.rfind(b"},{", begin, stop) + 1
    last = text[comma:stop]
    alone = text.find(b'"steps":', stop) < 0
    if not (begin >= 0 and comma and alone and text.endswith(last, begin, comma)):
        return _MEASUREMENT.validate_json(text)
    measurement = _MEASUREMENT.validate_json(text[:comma] + text[stop:])
    if measurement is not None:
        steps = (*measurement.steps, measurement.steps[-1])
        object.__setattr__(measurement, "steps", steps)  # nobody has seen it yet
    return measurement


def _after(model: type[Frozen], field: str) -> bytes:
    """What is written between the value of `field` and that of the next."""
    names = list(model.model_fields)
    return f',"{names[names.index(field) + 1]}":'.encode()


_MEASUREMENT = TypeAdapter(Measurement | None)
_BOUNDS = [
    (b'"case":{"backbone":', _after(Case, "backbone")),
    (b'"method":', _after(Case, "method")),
    (b'"workload":', b"}" + _after(Record, "case")),
    (b'"environment":', _after(Record, "environment")),
    (b'"measurement":', _after(Record, "measurement")),
]
_CUT_OUT: dict[str, object] = {
    "case": {"backbone": None, "method": None, "workload": None},
    "environment": None,
    "measurement": None,
}
"""What is left of the fields in them."""
