"""Remembered operators beside those that are asked every time."""

import gc

import pytest
import torch

from petl_bench import cards, method_spec
from petl_bench.case import Case, Workload
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.profilers.simulated.remembering import (
    _Remembering,
    _Writing,
    remembering,
)

aten = torch.ops.aten


def on_meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def form(result):
    results = (result,) if isinstance(result, torch.Tensor) else result
    return [
        r if r is None else (r.shape, r.stride(), r.dtype, r.untyped_storage().nbytes())
        for r in results
    ]


@pytest.mark.parametrize(
    ("operator", "calls"),
    [
        (aten.add.Tensor, [(on_meta(2, 3), on_meta(3)), (on_meta(2, 3), on_meta(2, 1))]),
        (aten.add.Tensor, [(on_meta(2), on_meta(2, dtype=torch.float64))]),
        (
            aten.mul.Scalar,
            [(on_meta(4, dtype=torch.int64), 2), (on_meta(4, dtype=torch.int64), 2.0)],
        ),
        (
            aten.mul.Scalar,
            [(on_meta(4, dtype=torch.bool), 1), (on_meta(4, dtype=torch.bool), True)],
        ),
        (aten.neg.default, [(on_meta(4, 5).t(),), (on_meta(4, 5),), (on_meta(4, 5)[:, ::2],)]),
        (aten.cat.default, [([on_meta(2, 3), on_meta(4, 3)],), ([on_meta(2, 3), on_meta(1, 3)],)]),
        (aten.native_dropout.default, [(on_meta(8), 0.1, True), (on_meta(8), 0.0, False)]),
        (aten.native_layer_norm.default, [(on_meta(2, 8), [8], None, None, 1e-5)]),
        (
            aten.sum.dim_IntList,
            [(on_meta(2, 8), [0]), (on_meta(2, 8), [1]), (on_meta(2, 8), [0], True)],
        ),
        (aten._to_copy.default, [(on_meta(3),)]),
        (aten.full.default, [([2], 1.0)]),
    ],
    ids=lambda value: str(value) if not isinstance(value, list) else "",
)
def test_what_is_remembered_is_what_the_operator_says(operator, calls):
    run = remembering(operator)
    for _ in range(3):
        for call in calls:
            assert form(run(*call)) == form(operator(*call))


def test_an_operator_that_has_been_seen_is_not_asked_again():
    asked = []

    def neg(tensor):
        asked.append(tensor.shape)
        return aten.neg.default(tensor)

    neg._schema = aten.neg.default._schema
    run = remembering(neg)
    for shape in ((2, 3), (2, 3), (6,), (2, 3)):
        assert run(on_meta(*shape)).shape == shape
    assert asked == [(2, 3), (6,)]


def test_what_is_remembered_is_not_searched_for_cycles():
    run, write = _Remembering(aten.cat.default), _Writing(aten.add_.Tensor)
    run([on_meta(2, 3), on_meta(4, 3)])
    write(on_meta(2, 3), on_meta(3))
    for _ in range(8):  # a search leaves out tuples of what is left out already, level by level
        gc.collect()
    remembered = [*run._forms, *run._forms.values(), *write._fine]
    assert [gc.is_tracked(part) for part in remembered] == [False] * 3


@pytest.mark.parametrize(
    ("operator", "target", "others"),
    [
        (aten.sigmoid_.default, on_meta(2, 3), ()),
        (aten.add_.Tensor, on_meta(2, 3), (on_meta(3),)),
        (aten.uniform_.default, on_meta(4, 5).t(), (0.0, 1.0)),
        (aten.index_put_.default, on_meta(4), ([on_meta(2, dtype=torch.int64)], on_meta(2), True)),
    ],
    ids=str,
)
def test_what_writes_returns_what_it_has_written_into(operator, target, others):
    run, before = remembering(operator), form(target)
    for _ in range(3):
        assert run(target, *others) is target
        assert form(target) == before


def test_what_writes_and_has_been_seen_is_not_asked_again():
    asked = []

    class Counted:
        _schema, tags = aten._foreach_add_.Scalar._schema, aten._foreach_add_.Scalar.tags

        def __call__(self, tensors, value):
            asked.append(len(tensors))
            return aten._foreach_add_.Scalar(tensors, value)

    run = remembering(Counted())
    for count, value in ((2, 1.0), (2, 0.5), (3, 1.0), (2, 1.0), (2, 1)):
        assert run([on_meta(4) for _ in range(count)], value) is None
    assert asked == [2, 3, 2]


@pytest.mark.parametrize("earlier", [[], [(on_meta(2, 3), on_meta(3))]], ids=["first", "later"])
def test_what_cannot_be_written_is_refused_whatever_came_before(earlier):
    run = remembering(aten.add_.Tensor)
    for call in earlier:
        run(*call)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            run(on_meta(2, 3), on_meta(4))


@pytest.mark.parametrize(
    "operator",
    [
        aten.view.default,
        aten.split.Tensor,
        aten._foreach_add.Scalar,  # returns a list
        aten.transpose_.default,  # writes a shape
        aten.resize_.default,
        aten.set_.source_Tensor,
        aten.add.out,
        aten._batch_norm_with_update.default,  # writes, and returns something else
    ],
    ids=str,
)
def test_what_shares_or_changes_shapes_or_returns_lists_is_asked_every_time(operator):
    assert remembering(operator) is operator


def test_a_tensor_with_numbers_is_never_remembered():
    """Of two tensors on the CPU, one may be a wrapped number, and promote otherwise."""
    run, tensor = remembering(aten.rsub.Tensor), torch.tensor(2)
    assert run(on_meta(2, dtype=torch.int32), tensor).dtype is torch.int32
    assert not run._forms


@pytest.mark.parametrize("method", ["full", "lora", "lst"])
def test_a_simulation_is_the_same_without_memory(make_tiny_t5, method, monkeypatch):
    case = Case(
        backbone=make_tiny_t5(),
        method=method_spec.resolve(method, {}),
        workload=Workload(batch_size=3, source_length_tokens=7, target_length_tokens=2),
    )
    card = cards.find("a100-80gb")
    remembered = simulate(case, card)
    for each in (_Remembering, _Writing):
        monkeypatch.setattr(
            each, "__call__", lambda self, *args, **kwargs: self._func(*args, **kwargs)
        )
    assert simulate(case, card) == remembered


def test_what_is_remembered_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr("petl_bench.profilers.simulated.remembering.MOST_FORMS", 3)
    remembered = remembering.__wrapped__(aten.mm.default)  # one of the test's own
    for rows in (1, 2, 3, 4, 1, 2):
        assert remembered(on_meta(rows, 5), on_meta(5, 7)).shape == (rows, 7)
        assert len(remembered._forms) <= 3


def test_nor_does_what_has_been_written(monkeypatch):
    monkeypatch.setattr("petl_bench.profilers.simulated.remembering.MOST_LISTS", 3)
    written = remembering.__wrapped__(aten._foreach_add_.Scalar)
    for rows in (1, 2, 3, 4, 1, 2):
        written([on_meta(rows)], 1.0)
        assert len(written._fine) <= 3
