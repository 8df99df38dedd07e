"""The comparison as GitHub annotations: lines that a job prints and GitHub shows on its page.

Source: GitHub Docs, "Workflow commands for GitHub Actions"; escapes as in actions/toolkit,
packages/core/src/command.ts.
"""

from collections.abc import Iterator

from petl_bench.comparison.verdicts import Comparison, Outcome
from petl_bench.comparison.words import headline, message


def lines(outcome: Outcome) -> Iterator[str]:
    """An error for each case that fails, a warning for each that only warns."""
    failures = outcome.failures
    for case in outcome.cases:
        if case in failures:
            yield _line("error", case)
        elif case.warned:
            yield _line("warning", case)


def _line(level: str, case: Comparison) -> str:
    title = _escaped(headline(case).partition(": ")[0]).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title=petl-bench {title}::{_escaped(message(case))}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
