"""Metrics by name, as scikit-learn and SciPy define them; 1 is best."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np

from petl_bench.errors import UsageError

Numbers = Sequence[int | float]
NO_CLASS = -1
"""Predicted where a model that answers in text says what is no label. It counts as wrong, as in the
metrics of Raffel et al. 2020 (arXiv:1910.10683, their code's f1_score_with_invalid)."""


def scores(names: Sequence[str], labels: Numbers, predictions: Numbers) -> dict[str, float]:
    """Each metric in `names` of predictions against labels, [N] both.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        return {name: _METRICS[name](labels, predictions) for name in names}
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
    from sklearn.metrics import accuracy_score  # noqa: PLC0415 - an extra

    return float(accuracy_score(labels, predictions))


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


_METRICS: dict[str, Callable[[Numbers, Numbers], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
