"""What is inside one transformer layer, read off its modules: whoever made it.

Projections by role, the norms of its two branches, and what else has vectors. A layer that holds
anything that is not understood is not read at all. Legend: D hidden size, F feed-forward size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from petl_bench.backbones.dims import SublayerKind
from petl_bench.backbones.ports import Sublayer
from petl_bench.backbones.roles import FUSED, ROLES

_KEYS_AND_QUERIES = (
    *("q_norm", "k_norm", "q_layernorm", "k_layernorm"),
    *("query_layernorm", "key_layernorm"),
)
_BEFORE_ATTENTION = "input_layernorm"
_BEFORE_FEED_FORWARD = "pre_feedforward_layernorm"
_AFTER_FEED_FORWARD = "post_feedforward_layernorm"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer with self-attention and a feed-forward, before, after or beside each other."""

    attention: nn.Module  # whose child makes queries
    heads: dict[str, nn.Module]  # projections of the attention, by role
    units: dict[str, nn.Module]  # projections of the feed-forward, by role
    fused: dict[str, tuple[str, ...]]  # as in Dims
    norms: tuple[nn.Module, ...]  # of width D, all of them
    branch_norms: tuple[nn.Module, nn.Module]  # the attention's, the feed-forward's
    head_norms: tuple[nn.Module, ...]  # of queries and of keys
    norms_results: bool  # a branch's norm takes what the branch returns

    @property
    def projections(self) -> dict[str, nn.Module]:
        """All of them, by role."""
        return self.heads | self.units

    def sublayers(self, stack: str, index: int, *, norm_after: bool) -> tuple[Sublayer, ...]:
        """The residual branches of this layer, `index` in its stack."""
        kinds = SublayerKind.SELF_ATTENTION, SublayerKind.FEED_FORWARD
        branches: Any = zip(kinds, (self.heads, self.units), self.branch_norms, strict=True)
        return tuple(
            Sublayer(
                stack=stack,
                layer=index,
                kind=kind,
                norm=norm,
                norm_after=norm_after or self.norms_results,
                projections=projections,
                output=projections["o" if kind is SublayerKind.SELF_ATTENTION else "wo"],
            )
            for kind, projections, norm in branches
        )


def read(layer: nn.Module) -> Layer | None:
    """What is in `layer`; None where it is something else."""
    modules = dict(layer.named_modules())
    linear = {name: module for name, module in modules.items() if is_projection(module)}
    heads = {name: module for name, module in linear.items() if "att" in name.partition(".")[0]}
    attention, fused = _attention(heads)
    units, gates = _feed_forward(module for name, module in linear.items() if name not in heads)
    norms = {name: module for name, module in modules.items() if is_norm(module)}
    on_heads = {name for name in norms if name.endswith(_KEYS_AND_QUERIES)}
    branch_norms = _branch_norms({n: m for n, m in norms.items() if n not in on_heads})
    if not attention or not units or branch_norms is None:
        return None
    first = next(name for name, module in heads.items() if module is next(iter(attention.values())))
    return Layer(
        attention=modules[first.rpartition(".")[0]],
        heads=attention,
        units=units,
        fused=fused | gates,
        norms=tuple(module for name, module in norms.items() if name not in on_heads),
        branch_norms=branch_norms,
        head_norms=tuple(norms[name] for name in sorted(on_heads)),
        norms_results=branch_norms[1] is norms.get(_AFTER_FEED_FORWARD),
    )


def is_projection(module: nn.Module) -> bool:
    """A linear layer, or GPT-2's Conv1D, which is one with its weight the other way round."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def is_norm(module: nn.Module) -> bool:
    """A norm, with vectors or without; one of batches counts, too."""
    named = "norm" in type(module).__name__.lower() and not list(module.children())
    return named and all(parameter.dim() == 1 for parameter in module.parameters())


def sizes(projection: Any) -> tuple[int, int]:
    """Inputs and outputs."""
    rows, columns = projection.weight.shape
    return (columns, rows) if isinstance(projection, nn.Linear) else (rows, columns)


def _attention(
    found: dict[str, nn.Module],
) -> tuple[dict[str, nn.Module], dict[str, tuple[str, ...]]]:
    """Queries, keys and values, or what makes them all, and the output: whatever is left."""
    roles: dict[str, nn.Module] = {}
    others = []
    for name, module in found.items():
        leaf = name.rpartition(".")[2]
        role = leaf if leaf in FUSED else ROLES.get(leaf)
        if role is not None and role != "o" and role not in roles:
            roles[role] = module
        else:
            others.append(module)
    fused: dict[str, tuple[str, ...]] = {r: ("q", "k", "v") for r in roles if r in FUSED}
    if len(others) != 1 or set(roles) not in ({"q", "k", "v"}, set(fused) or {""}):
        return {}, {}
    order = list(fused) or ["q", "k", "v"]
    return {role: roles[role] for role in order} | {"o": others[0]}, fused


def _feed_forward(
    found: Iterable[nn.Module],
) -> tuple[dict[str, nn.Module], dict[str, tuple[str, ...]]]:
    """One or two matrices, or two in one, and the last one back."""
    *inputs, last = (*found,) or (None,)
    if last is None or not inputs or len(inputs) > 2:  # noqa: PLR2004 - a gate and what it gates
        return {}, {}
    F, D = sizes(last)
    if len(inputs) == 1 and sizes(inputs[0]) == (D, 2 * F):
        return {"gate_up_proj": inputs[0], "wo": last}, {"gate_up_proj": ("wi_0", "wi_1")}
    if any(sizes(module) != (D, F) for module in inputs):
        return {}, {}
    names = ("wi",) if len(inputs) == 1 else ("wi_0", "wi_1")
    return dict(zip(names, inputs, strict=True)) | {"wo": last}, {}


def _branch_norms(norms: dict[str, nn.Module]) -> tuple[nn.Module, nn.Module] | None:
    """The attention's and the feed-forward's: before each, after each sum, or one for both."""
    inside = list(norms.values())
    if len(inside) == 1:
        return inside[0], inside[0]
    if len(inside) == 2:  # noqa: PLR2004 - one a branch
        first, second = inside
        return (first, second) if norms.get(_BEFORE_ATTENTION) is not second else (second, first)
    if {_BEFORE_ATTENTION, _BEFORE_FEED_FORWARD} <= norms.keys():
        return norms[_BEFORE_ATTENTION], norms[_BEFORE_FEED_FORWARD]
    return None
