"""The pytest plugin, in test suites of somebody else's."""

import sys
import tomllib
from pathlib import Path

import pytest
from torch import nn

import petl_bench

pytest_plugins = ["pytester"]
PLUGIN = "petl_bench.pytest_plugin"

MODEL = """
import torch
from torch import nn

EXTRA = False

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)
    def forward(self, x):
        x = torch.relu(self.up(x))
        return self.down(torch.tanh(x) if EXTRA else x)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(Block() for _ in range(4)))
    def forward(self, x):
        return {"loss": self.layers(x).square().mean()}
"""
TEST = """
from model import Model

def test_memory(petl_memory):
    petl_memory.check(Model, {"x": (1024, 64)}, "sgd", baseline="model.json")
"""


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """All that a check imports, torch's late imports too: inner sessions forget theirs."""
    for optimizer in ("sgd", "adamw"):
        found = petl_bench.simulate(nn.Linear(2, 2), (1, 2), optimizer=optimizer, loss=_mean)
    petl_bench.compare(found, found)


def _mean(model, batch):
    return model(batch).square().mean()


@pytest.fixture
def suite(pytester):
    """Factory: run a test file beside `model.py` with the plugin."""
    pytester.makepyfile(model=MODEL)

    def run(text, *arguments):
        pytester.makepyfile(test_it=text)
        # Hypothesis's own plugin imports all of hypothesis again at the end of every inner session.
        plugins = [f"-p{name}" for name in (PLUGIN, "no:cacheprovider", "no:hypothesispytest")]
        return pytester.runpytest_inprocess(*plugins, *arguments)

    yield run
    sys.modules.pop("model", None)


def test_the_package_offers_the_plugin_to_pytest():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}


def test_a_baseline_is_written_kept_and_broken(suite, pytester):
    suite(TEST).stdout.fnmatch_lines(["*no baseline model.json; pytest --petl-update writes it*"])
    suite(TEST, "--petl-update").assert_outcomes(passed=1)
    written = (pytester.path / "model.json").read_bytes()
    assert str(pytester.path).encode() not in written
    suite(TEST).assert_outcomes(passed=1)

    (pytester.path / "model.py").write_text(MODEL.replace("EXTRA = False", "EXTRA = True"))
    grown = suite(TEST)
    grown.assert_outcomes(failed=1)
    # tanh keeps its result, which the next layer keeps anyway, beside relu's: 1,024 rows of 256.
    grown.stdout.fnmatch_lines(
        [
            "*test_memory: regressed: peak allocated +* MiB*",
            "*+4.00 MiB activation in layers.0-3: 4 more tensors by aten::tanh at model.py:13*",
            "*pytest --petl-update accepts it*",
        ]
    )
    assert (pytester.path / "model.json").read_bytes() == written
    assert "Traceback" not in grown.stdout.str()

    suite(TEST, "--petl-update").assert_outcomes(passed=1)
    suite(TEST.replace("test_memory", "test_renamed")).assert_outcomes(passed=1)
    other = suite(TEST.replace("1024", "512"))
    other.stdout.fnmatch_lines(["*of another question: batch was*float32?1024, 64?*"])


def test_a_limit_is_of_reserved_bytes(suite):
    text = """
        import pytest
        from model import Model

        @pytest.mark.petl_memory(gpu="t4", limit="1 GiB")
        def test_fits(petl_memory):
            found = petl_memory.check(Model(), {"x": (1024, 64)})
            assert found.environment.device == "t4"

        def test_does_not(petl_memory):
            petl_memory.check(Model, {"x": (1024, 64)}, limit="4 MiB")
    """
    found = suite(text, "--strict-markers")
    found.assert_outcomes(passed=1, failed=1)
    found.stdout.fnmatch_lines(["*test_does_not: peak reserved * MiB, limit 4.00 MiB: *too much*"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "give a baseline, a limit, or both"),
        ('limit="much"', "'much' is not a size"),
        ('limit="1GiB", bsaeline="x"', "did you mean baseline"),
        ('baseline="test_it.py"', "test_it.py: file: Invalid JSON"),
    ],
)
def test_a_check_that_cannot_be_made_says_why(suite, options, said):
    text = f"""
        from model import Model

        def test_it(petl_memory):
            petl_memory.check(Model, {{"x": (8, 64)}}, "sgd", {options})
    """
    found = suite(text)
    found.assert_outcomes(failed=1)
    assert said in found.stdout.str()
