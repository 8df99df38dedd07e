"""petl-bench methods, backbones: what there is to choose from."""

from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from petl_bench.cli.output import stdout

if TYPE_CHECKING:
    from rich.table import Table

    from petl_bench.method import Method

ABSENT = "-"


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show this one's fields, or what `peft` has.")
    ] = None,
) -> None:
    """List the methods, or one's fields, source and defaults."""
    from petl_bench import registry

    scheme = name.removesuffix(":") if name else None
    if name is None or scheme in registry.schemes():
        _list_methods(scheme)
    else:
        _show_fields(registry.get(name))


def _list_methods(scheme: str | None) -> None:
    from rich.markup import escape

    from petl_bench import registry

    table = _table("method", "title", "source")
    for name in registry.names(scheme):
        method = registry.get(name)
        table.add_row(name, escape(method.title), escape(method.source))
    stdout().print(table)
    if scheme is None:
        more = ", ".join(f"petl-bench methods {each}" for each in registry.schemes())
        stdout().print(f"more: {more}", highlight=False, markup=False)


def _show_fields(method: "Method[Any]") -> None:
    from rich.markup import escape

    from petl_bench.method import LayeredConfig

    console = stdout()
    console.print(f"{method.name}: {method.title}", highlight=False, markup=False)
    console.print(f"source: {method.source}", highlight=False, markup=False)
    fields = method.config.model_fields
    if not fields:
        console.print("it has no fields")
        return
    table = _table("field", "values", "default", "what it is")
    for field, info in fields.items():
        cells = field, _values(info.annotation), _value(info.default), info.description or ""
        table.add_row(*map(escape, cells))
    console.print(table)
    own = [name for name in fields if name not in LayeredConfig.model_fields]
    first = next(iter(own or fields))  # rather one that few methods have
    console.print(f"write: {method.name}[{first}=...]", highlight=False, markup=False)


def backbones() -> None:
    """List the built-in backbones.

    A folder, a config.json or a hub id of any architecture works, too.
    """
    from petl_bench import backbones as known
    from petl_bench.units import format_count

    table = _table("backbone", "family", "parameters", "dimensions")
    for name in known.names():
        backbone = known.find(name)
        dims = known.FAMILIES[backbone.family].dims(backbone.config)
        layers = " + ".join(str(stack.layers) for stack in dims.stacks.values())
        table.add_row(
            name,
            backbone.family,
            format_count(dims.total_parameters),
            f"{layers} layers, hidden {dims.hidden_size}, feed-forward {dims.feed_forward_size}, "
            f"{dims.num_heads} heads of {dims.head_size}",
        )
    stdout().print(table)


def _values(kind: Any) -> str:
    """What may be written for a field of type `kind`.

    >>> _values(Literal["none", "all"]), _values(int | None), _values(tuple[str, ...] | bool)
    ('none | all', 'int', 'str,... | true | false')
    """
    if kind is bool:
        return "true | false"
    if get_origin(kind) is Literal:
        return " | ".join(map(_value, get_args(kind)))
    if get_origin(kind) in {Union, UnionType}:
        found = (_values(each) for each in get_args(kind) if each is not NoneType)
        return " | ".join(dict.fromkeys(found))
    if get_origin(kind) is tuple:
        return f"{_values(get_args(kind)[0])},..."
    return getattr(kind, "__name__", None) or str(kind)


def _value(value: object) -> str:
    """As it is written in brackets; a dash for what is left to the method."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _table(*columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD)
