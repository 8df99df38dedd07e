"""Metrics by name: scikit-learn's and SciPy's, and benchmarks' own; 1 is best but of CIDEr-D."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from petl_bench.errors import UsageError
from petl_bench.tasks.cider import cider_d
from petl_bench.tasks.text_metrics import (
    answer_accuracy,
    entity_f1,
    exact_match,
    overlap_f1,
    vqa_accuracy,
)

Numbers = Sequence[int | float]
NO_CLASS = -1
"""Predicted where a model that answers in text says what is no label. It counts as wrong, as in the
metrics of Raffel et al. 2020 (arXiv:1910.10683, their code's f1_score_with_invalid)."""


def scores(names: Sequence[str], labels: Sequence[Any], said: Sequence[Any]) -> dict[str, float]:
    """Each metric in `names` of what is said against labels, [N] both, of the metric's kind.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        return {name: _METRICS[name](labels, said) for name in names}
    except ImportError:
        raise UsageError(
            "train: metrics need scikit-learn; pip install petl-bench[tasks] or petl-bench[offline]"
        ) from None


def score(of_metrics: Mapping[str, float]) -> float:
    """The mean of a task's metrics: what methods are compared by."""
    return fmean(of_metrics.values())


def _wrong_for_none(labels: Numbers, predictions: Numbers) -> list[int | float]:
    """`predictions` with a class that the example does not have instead of none."""
    pairs = zip(labels, predictions, strict=True)
    return [int(not label) if found == NO_CLASS else found for label, found in pairs]


def _accuracy(labels: Numbers, predictions: Numbers) -> float:
    """Not scikit-learn's, so that most tasks do without it on a bare machine."""
    pairs = zip(labels, predictions, strict=True)
    return fmean(label == found for label, found in pairs)


def _f1(labels: Numbers, predictions: Numbers) -> float:
    from sklearn.metrics import f1_score  # noqa: PLC0415 - an extra

    return float(f1_score(labels, _wrong_for_none(labels, predictions), zero_division=0.0))


def _matthews(labels: Numbers, predictions: Numbers) -> float:
    from sklearn.metrics import matthews_corrcoef  # noqa: PLC0415 - an extra

    return float(matthews_corrcoef(labels, _wrong_for_none(labels, predictions)))


def _pearson(labels: Numbers, predictions: Numbers) -> float:
    from scipy.stats import pearsonr  # noqa: PLC0415 - of the same extra

    return _correlation(labels, predictions, lambda a, b: float(pearsonr(a, b).statistic))


def _spearman(labels: Numbers, predictions: Numbers) -> float:
    from scipy.stats import spearmanr  # noqa: PLC0415 - of the same extra

    return _correlation(labels, predictions, lambda a, b: float(spearmanr(a, b).statistic))


def _correlation(
    labels: Numbers, predictions: Numbers, of: Callable[[Numbers, Numbers], float]
) -> float:
    """0 where either does not vary, which has no correlation."""
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return of(labels, predictions)


_METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": _accuracy,
    "answer_accuracy": answer_accuracy,
    "cider_d": cider_d,
    "entity_f1": entity_f1,
    "exact_match": exact_match,
    "f1": _f1,
    "matthews": _matthews,
    "overlap_f1": overlap_f1,
    "pearson": _pearson,
    "spearman": _spearman,
    "vqa_accuracy": vqa_accuracy,
}
