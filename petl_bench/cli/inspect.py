"""petl-bench methods, backbones: what there is to choose from."""

from typing import TYPE_CHECKING, Annotated

import typer

from petl_bench.cli.output import stdout

if TYPE_CHECKING:
    from rich.table import Table


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show this one's fields; peft: lists what peft has.")
    ] = None,
) -> None:
    """List the methods, or one's fields, source and defaults."""
    from rich.markup import escape

    from petl_bench import registry
    from petl_bench.method import LayeredConfig

    scheme = name.removesuffix(":") if name else None
    if name is None or (name != scheme and scheme in registry.schemes()):
        table = _table("method", "title", "source")
        for known in registry.names(scheme):
            method = registry.get(known)
            table.add_row(known, escape(method.title), escape(method.source))
        stdout().print(table)
        if name is None:
            more = ", ".join(f"petl-bench methods {scheme}:" for scheme in registry.schemes())
            stdout().print(f"more: {more}", highlight=False, markup=False)
        return
    method = registry.get(name)
    console = stdout()
    console.print(f"{method.name}: {method.title}", highlight=False, markup=False)
    console.print(f"source: {method.source}", highlight=False, markup=False)
    table = _table("field", "type", "default", "what it is")
    for field, info in method.config.model_fields.items():
        kind = getattr(info.annotation, "__name__", None)
        text = kind if kind and "[" not in str(info.annotation) else str(info.annotation)
        cells = field, text.replace("typing.", ""), _default(info.default), info.description or ""
        table.add_row(*map(escape, cells))
    if method.config.model_fields:
        console.print(table)
        own = [
            name for name in method.config.model_fields if name not in LayeredConfig.model_fields
        ]
        first = next(iter(own or method.config.model_fields))  # rather one that few methods have
        console.print(f"write: {method.name}[{first}=...]", highlight=False, markup=False)
    else:
        console.print("it has no fields")


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


def _default(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _table(*columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD)
