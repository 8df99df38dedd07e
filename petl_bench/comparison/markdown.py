"""The comparison as a page of GitHub-flavoured Markdown, such as a job's step summary."""

from petl_bench.comparison.tables import table
from petl_bench.comparison.verdicts import Comparison, Outcome
from petl_bench.comparison.words import details, headline
from petl_bench.tables import markdown_text, to_markdown


def page(outcome: Outcome) -> str:
    """Title, table, and what moved in each case that did."""
    title = "petl-bench: memory check " + ("failed" if outcome.failures else "passed")
    parts = [f"### {title}\n", to_markdown(table(outcome))]
    parts += [_case(case) for case in outcome.cases if details(case)]
    return "\n".join(parts)


def _case(case: Comparison) -> str:
    lines = (f"- {markdown_text(line)}" for line in details(case))
    return "\n".join([markdown_text(headline(case)), "", *lines, ""])
