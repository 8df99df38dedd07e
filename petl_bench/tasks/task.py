"""What a task is: its fields, its labels, its metrics and where its data is. And those there are.

Sources: Wang et al. 2019, arXiv:1804.07461, table 1 (GLUE); Xu et al. 2020, arXiv:2004.05986,
table 1 (CLUE). Splits and epochs of GLUE are those of Sung et al. 2022, arXiv:2206.06522, section
4.1, and of the authors' code: see `splits`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from petl_bench.errors import UsageError, hint
from petl_bench.tasks.marking import marked_spans


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Where the Hugging Face hub has a task, and which of its splits are used."""

    path: str
    config: str
    validation: str | None = "validation"
    test: str | None = None  # None also where the hub's has no labels


@dataclass(frozen=True, kw_only=True)
class Task:
    """One sentence or a pair of them, and a label: a class, or a number where it is a regression.

    `labels` are the classes in the order of their numbers; None: those of the training split.
    The score is the mean of the metrics, best 1.
    """

    name: str
    texts: tuple[str, ...]  # one or two fields
    label: str = "label"
    image: str | None = None  # the field that names an example's images; see `vision.features`
    # What a row's fields become before they are read; raises ValueError where they do not fit.
    adapt: Callable[[Mapping[str, object]], Mapping[str, object]] | None = None
    labels: tuple[str, ...] | None = None
    regression: bool = False
    metrics: tuple[str, ...] = ("accuracy",)
    epochs: int = 10
    hub: Hub | None = None
    backbone: str = "all-MiniLM-L6-v2"  # that `train` takes where none is named


_SMALL = 20  # epochs, of the paper; 10 where there is more data
_HALVED: str | None = None  # no labelled test split: validation is halved


def _glue(  # noqa: PLR0917 - a row of a table
    name: str,
    hub: str,
    texts: tuple[str, ...],
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    validation: str | None,
    test: str | None,
    epochs: int = 10,
) -> Task:
    return Task(
        name=name,
        texts=texts,
        labels=labels or None,
        regression=not labels,
        metrics=metrics,
        epochs=epochs,
        hub=Hub(path="nyu-mll/glue", config=hub, validation=validation, test=test),
    )


_PAIR = ("sentence1", "sentence2")
_BOTH = ("accuracy", "f1")
_ENTAILS = ("entailment", "not_entailment")
_GLUE = (
    _glue("rte", "rte", _PAIR, _ENTAILS, ("accuracy",), "validation", _HALVED, _SMALL),
    _glue(
        "cola",
        "cola",
        ("sentence",),
        ("unacceptable", "acceptable"),
        ("matthews",),
        "validation",
        _HALVED,
        _SMALL,
    ),
    _glue(
        "mrpc",
        "mrpc",
        _PAIR,
        ("not_equivalent", "equivalent"),
        _BOTH,
        "validation",
        _HALVED,
        _SMALL,
    ),
    _glue("stsb", "stsb", _PAIR, (), ("pearson", "spearman"), "validation", _HALVED, _SMALL),
    # No validation split named: it is held out of train, and GLUE's validation is the test.
    _glue(
        "sst2", "sst2", ("sentence",), ("negative", "positive"), ("accuracy",), None, "validation"
    ),
    _glue(
        "qqp",
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        _BOTH,
        None,
        "validation",
    ),
    _glue("qnli", "qnli", ("question", "sentence"), _ENTAILS, ("accuracy",), None, "validation"),
    _glue(
        "mnli",
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        "validation_mismatched",
        "validation_matched",
    ),
)


def _clue(
    name: str, texts: tuple[str, ...], labels: tuple[str, ...] | None, epochs: int = 10
) -> Task:
    # CLUE's own test labels are not public, so its validation split is the test here, too.
    hub = Hub(path="clue/clue", config=name, validation=None, test="validation")
    return Task(name=name, texts=texts, labels=labels, epochs=epochs, hub=hub, backbone=_OF_CHINESE)


_OF_CHINESE = "multilingual-e5-small"
_YES_NO = ("0", "1")
_INFERENCE = ("neutral", "entailment", "contradiction")
_CLUE = (
    _clue("afqmc", _PAIR, _YES_NO),
    _clue("tnews", ("sentence",), None),
    _clue("iflytek", ("sentence",), None),
    _clue("cmnli", _PAIR, _INFERENCE),
    _clue("ocnli", _PAIR, _INFERENCE),
    _clue("csl", ("abst", "keyword"), _YES_NO),
    Task(
        name="wsc",
        texts=("text",),
        labels=("true", "false"),
        adapt=marked_spans,
        hub=Hub(path="clue/clue", config="cluewsc2020", validation=None, test="validation"),
        backbone=_OF_CHINESE,
    ),
    # Of its few-shot release (Xu et al. 2021, arXiv:2107.07498), by --data alone.
    Task(name="bustm", texts=_PAIR, labels=_YES_NO, backbone=_OF_CHINESE),
    Task(
        name="eprstmt",
        texts=("sentence",),
        labels=("Negative", "Positive"),
        backbone=_OF_CHINESE,
    ),
)

_OFFLINE = (
    # Critics' sentences, fresh or rotten: like SST-2, from a package and without a network.
    Task(name="reviews", texts=("text",), labels=("rotten", "fresh"), epochs=3),
    Task(
        name="bbc",
        texts=("text",),
        labels=("business", "entertainment", "politics", "sports", "tech"),
        epochs=3,
    ),
    Task(
        name="reviews-zh",
        texts=("text",),
        labels=("negative", "positive"),
        epochs=1,
        backbone=_OF_CHINESE,
    ),
    Task(
        name="easy-vqa",
        texts=("question",),
        label="answer",
        image="image",
        epochs=3,
        backbone="shapes-mini",
    ),
    # About images whose features are beside the data, by --data alone. Hudson and Manning 2019,
    # arXiv:1902.09506; Suhr et al. 2019, arXiv:1811.00491.
    Task(name="gqa", texts=("question",), label="answer", image="image", backbone="shapes-mini"),
    Task(
        name="nlvr2",
        texts=("sentence",),
        labels=("False", "True"),
        image="images",
        backbone="shapes-mini",
    ),
    # Anyone's data, by --data alone; classes are those of the training split.
    Task(name="sentence", texts=("text",)),
    Task(name="pair", texts=("text", "text_pair")),
)

TASKS = {task.name: task for task in (*_OFFLINE, *_GLUE, *_CLUE)}


def find(name: str) -> Task:
    """The task called `name`.

    Raises:
        UsageError: no such task.
    """
    if name not in TASKS:
        raise UsageError(f"task: no task {name!r}; {hint(name, TASKS)}")
    return TASKS[name]
