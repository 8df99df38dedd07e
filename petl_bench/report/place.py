"""Where and when the records of a page were made."""

from collections.abc import Iterable
from datetime import datetime

from petl_bench.record import Environment
from petl_bench.tables import ABSENT
from petl_bench.units import format_bytes


def environment_rows(environments: Iterable[Environment]) -> list[tuple[str, list[str]]]:
    """A row a field, with the value in each of the distinct environments."""
    distinct = {each.model_dump_json(): each for each in environments}.values()
    return [
        (
            name.removesuffix("_bytes").replace("_", " "),
            [_text(name, getattr(each, name)) for each in distinct],
        )
        for name in Environment.model_fields
    ]


def _text(name: str, value: str | int | bool | None) -> str:  # noqa: FBT001
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_bytes(int(value)) if name.endswith("_bytes") else str(value)


def when(moments: Iterable[datetime]) -> str:
    """The time from the first of them to the last."""
    found = sorted(moments)
    texts = [moment.strftime("%Y-%m-%d %H:%M %Z").strip() for moment in (found[0], found[-1])]
    return " to ".join(dict.fromkeys(texts))
