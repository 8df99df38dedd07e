"""Reading many records: what repeats from line to line is validated once.

The records of a store share backbones, methods, workloads and places. Their texts are cut out of a
line by the names around them, and looked up. The cuts are right if every piece is valid for its
field and so is what remains: a name in its quotes cannot stand inside a string. Any other line, in
another order or spelling than ours or with something amiss, is read the plain way, which also has
the words for it.
"""

from typing import Any, TypeVar

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict  # typing's own is of Python 3.12

from petl_bench.case import Backbone, Case, Frozen, MethodChoice, Workload, canonical, id_of_case
from petl_bench.record import Environment, Record, load_record_json

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
        pieces, order, rest = _cut(line)
        own = _OWN.validate_json(rest)
        backbone, backbone_json = self._backbones[pieces[0]]
        method, method_json = self._methods[pieces[1]]
        workload, workload_json = self._workloads[pieces[2]]
        place, _ = self._places[pieces[3]]
        seen = own["measurement"]
        if len(seen.steps if seen else ()) != len({*order}):
            raise ValueError("steps elsewhere, or in other places")
        if seen:  # frozen, but nobody knows it yet
            object.__setattr__(seen, "steps", tuple([seen.steps[place] for place in order]))
        shared = {
            "case_id": id_of_case(backbone_json, method_json, workload_json),
            "case": _built(Case, {"backbone": backbone, "method": method, "workload": workload}),
            "environment": place,
        }
        record = _built(Record, {**_IN_ORDER, **own, **shared})
        record.check()
        return record


class _Known(dict[bytes, tuple[T, str]]):
    """Values of one type by their text, each with its canonical JSON."""

    def __init__(self, model: type[T]) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, text: bytes) -> tuple[T, str]:
        value = self._model.model_validate_json(text)
        self[text] = value, canonical(value)
        return self[text]


def _cut(line: bytes) -> tuple[list[bytes], list[int], bytes]:
    """What `_BOUNDS` enclose; every step's place among those that differ; the rest, with these.

    Raises:
        ValueError: a bound is not there.
    """
    cuts, stop = [], 0
    for before, after in _BOUNDS:
        start = line.index(before, stop)
        stop = line.index(after, start)
        cuts.append((start, start + len(before), stop))
    pieces = [line[start:stop] for _, start, stop in cuts]
    (case, *_), _, (*_, case_end), (place, *_) = cuts
    rest = [line[:case], line[case_end + 1 : place]]
    first = line.find(b'"steps":[{', stop)
    if first < 0:
        return pieces, [], b"".join([*rest, line[stop:]])
    first += len(b'"steps":[{')
    last = line.index(b"}]", first)
    if line.find(b'"steps":', last) > 0:
        raise ValueError("steps come twice")
    places: dict[bytes, int] = {}
    order = [places.setdefault(step, len(places)) for step in line[first:last].split(b"},{")]
    return pieces, order, b"".join([*rest, line[stop:first], b"},{".join(places), line[last:]])


def _built(model: type[T], values: dict[str, Any]) -> T:
    """What `model_construct` makes of all fields in their order, in a quarter of its time."""
    made = model.__new__(model)
    object.__setattr__(made, "__dict__", values)
    object.__setattr__(made, "__pydantic_fields_set__", _FIELDS[model])
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


def _after(model: type[Frozen], field: str) -> bytes:
    """What is written between the value of `field` and that of the next."""
    names = list(model.model_fields)
    return f',"{names[names.index(field) + 1]}":'.encode()


_BOUNDS = [
    (b',"case":{"backbone":', _after(Case, "backbone")),
    (b',"method":', _after(Case, "method")),
    (b',"workload":', b"}" + _after(Record, "case")),
    (b',"environment":', _after(Record, "environment")),
]
_FIELDS: dict[type[Frozen], set[str]] = {model: set(model.model_fields) for model in (Case, Record)}
_IN_ORDER = dict.fromkeys(Record.model_fields)
_Own = TypedDict(  # type: ignore[misc]
    "_Own",
    {
        name: field.rebuild_annotation()
        for name, field in Record.model_fields.items()
        if name not in {"case", "environment"}
    },
)
_OWN: TypeAdapter[dict[str, Any]] = TypeAdapter(
    with_config(Record.model_config)(_Own)  # type: ignore[arg-type]
)
"""A record without what is looked up."""
