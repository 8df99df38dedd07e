"""Side blocks cut from the backbone: structural pruning by Fisher information or by weight.

    importance = fisher_information(model, batches)     or nothing, for weight magnitude
    cut_from_backbone(model, importance)

One pass over the backbone's matrices in their order keeps the most important output units of each,
1 / reduction of them, and of its inputs those units that the matrix before it has kept. Rows are
chosen sublayer by sublayer, q, k and v together, with no regard to heads or to the residual stream.
Source: Sung et al. 2022, section 3.3, and the authors' code ("fisher-v2"), which settles the rest.

Legend: V vocabulary, D hidden size, d side width.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn

from petl_bench.backbones import ports_of
from petl_bench.backbones.ports import Sublayer

from .designs import Native
from .ladder import Ladder

Importance = Mapping[str, torch.Tensor]


def fisher_information(
    model: Any,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    store: torch.device | str | None = None,
) -> dict[str, torch.Tensor]:
    """Sum over `batches` of the squared gradient of the plain backbone's loss, by parameter name.

    The paper takes 1024 batches of one example each: empirical Fisher information with the true
    labels. The model is in eval mode meanwhile, and no ladder listens. Each gradient is added up
    and dropped as soon as backward has made it, so beside the weights and the sums (on `store`,
    by default the weights' own device) never more than one parameter's gradient is alive. Only
    matrices of the layers and the embedding are summed: nothing else is asked for. An embedding
    that is looked up and nothing more costs the rows that a batch names, not a whole vocabulary.

    Raises:
        ValueError: no batch, or a loss that is not finite.
    """
    wanted = _matrices(model)
    names = {p: name for name, p in model.named_parameters() if p in wanted}
    sums = {p: torch.zeros_like(p, device=store, dtype=torch.float32) for p in names}

    def absorb(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        total = sums[parameter]
        gradient = parameter.grad.to(total.device, total.dtype)
        total.addcmul_(gradient, gradient)
        parameter.grad = None

    embedding = _embedding(model)
    lookups = _lookups(model, embedding)
    by_backward = [p for p in names if p is not embedding or not lookups]
    count = 0
    with _plain_and_trainable(model, by_backward), _Rows(lookups) as rows:
        handles = [p.register_post_accumulate_grad_hook(absorb) for p in by_backward]
        try:
            for count, batch in enumerate(batches, start=1):
                loss = model(**batch)["loss"]
                if loss.isnan() or loss.isinf():
                    raise ValueError(f"the loss of batch {count} is {loss.item()}")
                loss.backward()
                rows.absorb(sums[embedding])
        finally:
            for handle in handles:
                handle.remove()
    if not count:
        raise ValueError("no batch to take Fisher information from")
    return {name: sums[p] for p, name in names.items()}


@torch.no_grad()
def cut_from_backbone(
    model: Any, importance: Importance | None = None, name: str | None = None
) -> None:
    """Start the side blocks of a ladder, the active one by default, as parts of the backbone.

    `importance` has the shape of each parameter that it names; None takes the weights' magnitude.
    Position tables are copied whole, biases and norms cut; entry, rungs, gates and exit stay as
    drawn. A classifier's head is as new as the task: until it has learnt, gradients say little.

    Raises:
        ValueError: side blocks of another kind, a width that `reduction` does not divide, layers
            that cannot be cut, or an importance that lacks a parameter.
    """
    ladder: Ladder = model.ladders[name or model.ladders.active]
    ports = ports_of(model)
    dims = ports.dims
    if uncut := dims.uncut:
        raise ValueError(uncut)
    for width in (dims.hidden_size, dims.head_size, dims.feed_forward_size):
        if width % ladder.config.reduction:
            raise ValueError(f"reduction {ladder.config.reduction} does not divide {width}")
    if ladder.config.blocks not in {"native", "cross-attention"}:
        raise ValueError("only native side blocks can be cut from the backbone")
    cut = _Cut(ladder.config.reduction, _scores(model, importance))
    kept = cut.columns(_embedding(model))
    for stack in ports.stacks:
        side = ladder.stack(stack.name)
        assert isinstance(side.design, Native)
        thin = side.design.thin
        for index in range(len(stack.layers)):
            parts = [s for s in ports.sublayers if (s.stack, s.layer) == (stack.name, index)]
            targets = thin.sublayers(index) if index in side.kept else (None,) * len(parts)
            for sublayer, target in zip(parts, targets, strict=True):
                kept = cut.sublayer(sublayer, target, kept)
        if stack.final_norm is not None and thin.final_norm is not None:
            _copy(thin.final_norm, stack.final_norm, kept)
    for stack, table in zip(ports.stacks, ports.position_tables, strict=False):  # or none
        design = ladder.stack(stack.name).design
        assert isinstance(design, Native)
        assert design.thin.position_table is not None
        design.thin.position_table.load_state_dict(table.state_dict())


class _Cut:
    """The greedy pass: which units of each matrix stay, given those of the matrix before."""

    def __init__(self, reduction: int, scores: Mapping[torch.Tensor, torch.Tensor]) -> None:
        self._reduction = reduction
        self._scores = scores

    def columns(self, embedding: nn.Parameter) -> list[int]:
        """The embedding's dimensions that stay: the largest L1 norms over the vocabulary."""
        return self._best(self._scores[embedding].abs().sum(dim=0))

    def sublayer(self, source: Sublayer, target: Sublayer | None, kept: list[int]) -> list[int]:
        """Cut one branch down into `target`, if it has one; returns the units it hands on."""
        *inputs, output = source.projections  # q, k, v, o; or wi..., wo
        middle = self._first(source, target, inputs, kept)
        result = self._matrices(source, target, [output], middle)
        if target is not None:
            _copy(target.norm, source.norm, result if source.norm_after else kept)
        return result

    def _first(
        self, source: Sublayer, target: Sublayer | None, roles: list[str], kept: list[int]
    ) -> list[int]:
        """What reads the branch's input; returns the units that its last matrix reads.

        Keys and values that several query heads share have fewer rows than queries: a choice of
        their own.
        """
        by_rows: dict[int, list[str]] = {}
        for role in roles:
            by_rows.setdefault(source.projections[role].out_features, []).append(role)
        first, *others = (self._matrices(source, target, alike, kept) for alike in by_rows.values())
        del others
        return first

    def _matrices(
        self, source: Sublayer, target: Sublayer | None, roles: list[str], kept: list[int]
    ) -> list[int]:
        """Matrices that share their rows: scored by the product of their importances."""
        linears = [source.projections[role] for role in roles]
        scores = [self._scores[linear.weight][:, kept] for linear in linears]
        rows = self._best(torch.stack(scores).prod(dim=0).abs().sum(dim=1))
        for role, linear in zip(roles, linears, strict=True):
            if target is not None:
                thin = target.projections[role]
                thin.weight.copy_(linear.weight[rows][:, kept])
                if thin.bias is not None:
                    thin.bias.copy_(linear.bias[rows])
        return rows

    def _best(self, scores: torch.Tensor) -> list[int]:
        """All but the round((1 - 1 / reduction) n) lowest, in the order of a Python set.

        That order is the authors': it decides which rows come to share a head.
        """
        units = len(scores)
        pruned = scores.argsort(stable=True)[: round((1 - 1 / self._reduction) * units)]
        if pruned.is_meta:  # without values any will do
            return list(range(len(pruned), units))
        return list(set(range(units)) - set(pruned.tolist()))


def _copy(thin: nn.Module, full: nn.Module, kept: list[int]) -> None:
    """A norm's vectors, cut to the kept units."""
    for name, vector in full.named_parameters():
        thin.get_parameter(name).copy_(vector[kept])


def _scores(model: Any, importance: Importance | None) -> dict[torch.Tensor, torch.Tensor]:
    wanted = _matrices(model)
    names = {p: name for name, p in model.named_parameters() if p in wanted}
    if importance is None:
        return {p: p.detach().float().abs() for p in names}
    missing = set(names.values()) - importance.keys()
    if missing:
        raise ValueError(f"no importance is given for {min(missing)}")
    return {p: importance[name].to(p.device) for p, name in names.items()}


def _embedding(model: Any) -> nn.Parameter:
    weight: nn.Parameter = model.get_input_embeddings().weight
    return weight


def _lookups(model: Any, weight: nn.Parameter) -> list[nn.Embedding]:
    """The modules that look rows of `weight` up; none if anything else computes with it.

    That is so where it is a language head, too, or where a subclass scales what it looked up.
    """
    holders = [m for m in model.modules() if any(p is weight for p in m.parameters(recurse=False))]
    plain = [m for m in holders if type(m) is nn.Embedding and not m.scale_grad_by_freq]
    return plain if len(plain) == len(holders) else []


class _Rows:
    """Squared gradients of an embedding, from those of the rows that it looked up in a pass."""

    def __init__(self, lookups: Iterable[nn.Embedding]) -> None:
        self._lookups = tuple(lookups)
        self._handles: list[Any] = []
        self._passed: list[tuple[torch.Tensor, torch.Tensor]] = []  # ids and gradients

    def __enter__(self) -> Self:
        self._handles = [module.register_forward_hook(self._listen) for module in self._lookups]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _listen(self, module: nn.Module, args: tuple[Any, ...], rows_BTD: torch.Tensor) -> None:
        ids_BT: torch.Tensor = args[0]

        def keep(leaf_BTD: torch.Tensor) -> None:
            gradient_BTD, leaf_BTD.grad = leaf_BTD.grad, None
            assert gradient_BTD is not None
            assert isinstance(module, nn.Embedding)
            if module.padding_idx is not None:
                gradient_BTD = gradient_BTD * (ids_BT != module.padding_idx)[..., None]
            self._passed.append((ids_BT.flatten(), gradient_BTD.flatten(0, -2)))

        rows_BTD.requires_grad_().register_post_accumulate_grad_hook(keep)

    def absorb(self, total_VD: torch.Tensor) -> None:
        """Add what the pass that is over gives, and forget it.

        A token that comes more than once has one row: its gradients meet before they are squared.
        """
        if not self._passed:
            return
        ids_N, gradient_ND = (torch.cat(parts) for parts in zip(*self._passed, strict=True))
        self._passed.clear()
        sorted_N, _ = ids_N.sort()
        first_N = torch.searchsorted(sorted_N, ids_N)  # where its like begin: one place for all
        met_ND = torch.zeros_like(gradient_ND, dtype=torch.float32)
        met_ND.index_add_(0, first_N, gradient_ND.float())
        squared_ND = met_ND.square_().to(total_VD.device)
        total_VD.index_add_(0, sorted_N.to(total_VD.device), squared_ND)


def _matrices(model: Any) -> set[torch.Tensor]:
    """The embedding and every projection of the sublayers."""
    ports = ports_of(model)
    inside = {linear.weight for s in ports.sublayers for linear in s.projections.values()}
    return {_embedding(model), *inside}


@contextmanager
def _plain_and_trainable(model: Any, wanted: Iterable[nn.Parameter]) -> Iterator[None]:
    """The backbone alone, in eval mode, with gradients for `wanted`."""
    training, before = model.training, {p: p.requires_grad for p in model.parameters()}
    try:
        model.eval()
        model.requires_grad_(requires_grad=False)
        for parameter in wanted:
            parameter.requires_grad = True
        with model.ladders.disabled():
            yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad = required
        model.train(training)
