"""README and the committed report say what the program says today."""

import re
from pathlib import Path

import pytest

from petl_bench import cards
from petl_bench.environment import simulated_environment
from petl_bench.profilers.simulated.profiler import simulate
from petl_bench.store import read_records
from petl_bench.tables import summary, to_markdown

ROOT = Path(__file__).parents[1]
RECORDS = list(read_records(ROOT / "reports/t5-base"))


def test_the_table_is_the_reports():
    table = "\n\n".join(map(to_markdown, summary(RECORDS))).strip()
    assert (ROOT / "reports/t5-base/table.md").read_text().strip() == table
    assert f"<!-- table -->\n{table}\n<!-- /table -->" in (ROOT / "README.md").read_text()


def test_pictures_and_links_exist():
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            if not target.startswith("https://"):
                assert (ROOT / target).exists(), f"{page} points to {target}"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.label)
def test_every_committed_byte_is_simulated_again(record):
    """Golden bytes: a difference here is a change of measurement, to be explained in CHANGELOG."""
    card = cards.find(record.environment.device)
    here = simulated_environment(card)
    for library in ("torch", "transformers", "peft"):
        made_with = getattr(record.environment, library).partition("+")[0]
        if getattr(here, library).partition("+")[0] != made_with:
            pytest.skip(f"made with {library} {made_with}")
    again = simulate(record.case, card)
    assert again.load == record.measurement.load
    assert again.steps == record.measurement.steps
    assert again.trainable_parameters == record.measurement.trainable_parameters
    assert again.flops_per_step == record.measurement.flops_per_step
