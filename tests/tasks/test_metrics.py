"""Metrics on numbers that a reader can check."""

import sys

import pytest

from petl_bench.errors import UsageError
from petl_bench.tasks.metrics import NO_CLASS, score, scores

pytest.importorskip("sklearn", reason="pip install petl-bench[tasks]")


def test_metrics_are_those_of_their_names():
    # Of 1s, three in four are found, and three in five found are 1s.
    labels = [1, 1, 1, 1, 0, 0, 0, 0]
    predictions = [1, 1, 1, 0, 1, 1, 0, 0]
    found = scores(("accuracy", "f1", "matthews"), labels, predictions)
    assert found["accuracy"] == 5 / 8
    assert found["f1"] == pytest.approx(2 * 3 / (5 + 4))
    assert found["matthews"] == pytest.approx((3 * 2 - 2 * 1) / (5 * 4 * 4 * 3) ** 0.5)
    assert score({"a": 0.5, "b": 1.0}) == 0.75


def test_accuracy_alone_needs_no_library(monkeypatch):
    for name in ("sklearn", "sklearn.metrics"):
        monkeypatch.setitem(sys.modules, name, None)
    assert scores(("accuracy",), [1, 0, 1], [1, 0, NO_CLASS]) == {"accuracy": 2 / 3}
    with pytest.raises(UsageError, match="need scikit-learn"):
        scores(("accuracy", "f1"), [1, 0], [1, 0])


def test_correlations_of_what_does_not_vary_are_0():
    names = ("pearson", "spearman")
    assert scores(names, [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == {"pearson": 0.0, "spearman": 0.0}
    assert scores(names, [1.0, 2.0, 3.0], [1.0, 10.0, 11.0])["spearman"] == pytest.approx(1.0)
    assert 0.9 < scores(names, [1.0, 2.0, 3.0], [1.0, 10.0, 11.0])["pearson"] < 0.95


def test_what_is_no_class_counts_as_wrong():
    labels = [1, 0, 1, 0, 1]
    names = ("accuracy", "f1", "matthews")
    found = scores(names, labels, [1, 0, NO_CLASS, NO_CLASS, 1])
    assert found == scores(names, labels, [1, 0, 0, 1, 1])
    assert found["accuracy"] == 3 / 5
