"""The tasks that there are.

Sources: Wang et al. 2019, arXiv:1804.07461, table 1 (GLUE); Xu et al. 2020, arXiv:2004.05986,
table 1 (CLUE). Splits and epochs of GLUE are those of Sung et al. 2022, arXiv:2206.06522, section
4.1, and of the authors' code: see `splits`. Lengths, batches and epochs of CLUE's reading tasks are
those of Su 2022, kexue.fm/archives/9138 and its code.
"""

from petl_bench.errors import UsageError, hint
from petl_bench.tasks import releases
from petl_bench.tasks.adapting import blanks, conversation, marked_spans
from petl_bench.tasks.task import Hub, Kind, Task

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
        kind=Kind.CLASS if labels else Kind.NUMBER,
        labels=labels or None,
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
        labels=("true", "false"),  # in the order of the hub's ClassLabel, so 0 is true
        adapt=marked_spans,
        hub=Hub(path="clue/clue", config="cluewsc2020", validation=None, test="validation"),
        backbone=_OF_CHINESE,
    ),
    Task(
        name="cmrc2018",
        kind=Kind.SPAN,
        texts=("question", "context"),
        label="answers",
        id="id",
        metrics=("exact_match", "overlap_f1"),
        batch_size=32,
        max_length_tokens=512,
        max_answer_tokens=64,
        hub=Hub(path="clue/clue", config="cmrc2018", validation=None, test="validation"),
        backbone=_OF_CHINESE,
    ),
    Task(
        name="c3",
        kind=Kind.CHOICE,
        texts=("question", "context"),
        choices="choice",
        most_choices=4,
        adapt=conversation,
        batch_size=16,  # neither its batch nor its length is in the source
        max_length_tokens=512,
        hub=Hub(path="clue/clue", config="c3", validation=None, test="validation"),
        backbone=_OF_CHINESE,
    ),
    Task(
        name="chid",
        kind=Kind.CHOICE,
        texts=("content",),
        choices="candidates",
        most_choices=10,
        adapt=blanks,
        epochs=5,
        batch_size=12,
        max_length_tokens=64,
        hub=Hub(path="clue/clue", config="chid", validation=None, test="validation"),
        backbone=_OF_CHINESE,
    ),
    # Xu et al. 2020, arXiv:2001.04351; not among the hub's clue/clue.
    Task(
        name="cluener",
        kind=Kind.ENTITIES,
        texts=("text",),
        labels=(
            "address",
            "book",
            "company",
            "game",
            "government",
            "movie",
            "name",
            "organization",
            "position",
            "scene",
        ),
        metrics=("entity_f1",),
        batch_size=32,
        max_length_tokens=256,
        max_answer_tokens=128,
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

_PACKAGED = (
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
)

# About images whose features are made beforehand, by --data alone. Goyal et al. 2017,
# arXiv:1612.00837; Hudson and Manning 2019, arXiv:1902.09506; Suhr et al. 2019,
# arXiv:1811.00491; Chen et al. 2015, arXiv:1504.00325. Batches, epochs and lengths are those of
# Sung et al. 2022's code, which trains all four at once.
_OF_IMAGES = (
    Task(
        name="vqa",
        kind=Kind.WORDS,
        texts=("question",),
        label="answers",
        id="question_id",
        image="image",
        release=releases.vqa,
        metrics=("vqa_accuracy",),
        epochs=20,
        batch_size=300,
        max_length_tokens=20,
        max_answer_tokens=10,
        backbone="shapes-mini",
    ),
    Task(
        name="gqa",
        kind=Kind.WORDS,
        texts=("question",),
        label="answer",
        image="image",
        release=releases.gqa,
        metrics=("answer_accuracy",),
        epochs=20,
        batch_size=500,
        max_length_tokens=20,
        max_answer_tokens=10,
        backbone="shapes-mini",
    ),
    Task(
        name="nlvr2",
        texts=("sentence",),
        labels=("False", "True"),
        image="images",
        release=releases.nlvr2,
        epochs=20,
        backbone="shapes-mini",
    ),
    Task(
        name="caption",
        kind=Kind.WORDS,
        texts=(),
        label="captions",
        each=True,
        image="image",
        release=releases.captions,
        metrics=("cider_d",),
        epochs=20,
        batch_size=250,
        max_answer_tokens=40,
        backbone="shapes-mini",
    ),
)

# Anyone's data, by --data alone; classes are those of the training split.
_OWN = (
    Task(name="sentence", texts=("text",)),
    Task(name="pair", texts=("text", "text_pair")),
)

TASKS = {task.name: task for task in (*_PACKAGED, *_OF_IMAGES, *_OWN, *_GLUE, *_CLUE)}


def find(name: str) -> Task:
    """The task called `name`.

    Raises:
        UsageError: no such task.
    """
    if name not in TASKS:
        raise UsageError(f"task: no task {name!r}; {hint(name, TASKS)}")
    return TASKS[name]
