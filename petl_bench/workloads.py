"""Workloads by name: the loads of a paper's tasks. A name fills in fields; others override them.

Source: Sung et al. 2022, arXiv:2206.06522, section 4, and the authors' code, for the batch and the
longest examples of each task. Where the code cuts nothing (NLVR2's text, GQA's answers) the length
is the one that its published memory bears out; a caption's source is its prefix alone.
"""

from typing import Any

from petl_bench.errors import UsageError, hint

_VISION: dict[str, dict[str, Any]] = {
    "vqa": {"batch_size": 300, "source_length_tokens": 20, "target_length_tokens": 10},
    "gqa": {"batch_size": 500, "source_length_tokens": 20, "target_length_tokens": 10},
    "nlvr2": {
        "batch_size": 100,
        "source_length_tokens": 40,
        "target_length_tokens": 2,
        "images": 2,
    },
    "caption": {"batch_size": 250, "source_length_tokens": 4, "target_length_tokens": 40},
}
LARGEST = "vl"
"""All four at once: a run that trains on them in turn needs what the largest does."""

NAMED: dict[str, list[dict[str, Any]]] = {
    "glue": [{"batch_size": 100, "source_length_tokens": 128, "target_length_tokens": 3}],
    **{name: [fields] for name, fields in _VISION.items()},
    LARGEST: list(_VISION.values()),
}


def find(name: str) -> list[dict[str, Any]]:
    """The fields of each workload that goes by `name`.

    Raises:
        UsageError: no such name.
    """
    if name not in NAMED:
        raise UsageError(f"workload: no workload {name!r}; {hint(name, NAMED)}")
    return NAMED[name]
