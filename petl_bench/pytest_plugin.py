"""The pytest plugin: a training step's memory as a test, without a GPU.

    def test_memory(petl_memory):
        petl_memory.check(build, {"x": (32, 784)}, "adamw", baseline="mlp.json")

`pytest --petl-update` writes the baselines. Nothing is imported until a test asks for the fixture.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from petl_bench.own.footprint import Footprint

MARKER = "petl_memory(**defaults): options of petl_memory.check for every check in the test"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--petl-update`."""
    group = parser.getgroup("petl-bench")
    group.addoption(
        "--petl-update",
        action="store_true",
        help="write the baselines of petl_memory.check instead of comparing with them",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def petl_memory(request: pytest.FixtureRequest) -> "MemoryCheck":
    """What a training step of a torch model takes, checked against a baseline or a limit."""
    marker = request.node.get_closest_marker("petl_memory")
    return MemoryCheck(
        folder=request.path.parent,
        update=request.config.getoption("--petl-update"),
        defaults=dict(marker.kwargs) if marker else {},
        name=request.node.name,
    )


class MemoryCheck:
    """The fixture: simulates one training step and judges it."""

    def __init__(self, *, folder: Path, update: bool, defaults: dict[str, Any], name: str) -> None:
        self._folder = folder
        self._update = update
        self._defaults = defaults
        self._name = name

    def check(self, model: Any, batch: Any, optimizer: Any = None, **options: Any) -> "Footprint":
        """Fail if a training step takes more than it may.

        Args:
            model: a torch module, or a function that builds one.
            batch: tensors or shapes, as `petl_bench.simulate` takes them.
            optimizer: a name, class, function or optimizer; "adamw" by default.
            options: at least one of
                baseline: a file beside the test that --petl-update writes: any growth fails;
                limit: what the step may reserve, such as "12 GiB" or a number of bytes;
                and: fail_on, thresholds for the baseline such as "peak_allocated:1%" (several in
                a list); loss or step, gpu and name as `petl_bench.simulate` takes them.

        Raises:
            UsageError: an option or a value that cannot be used.
        """
        __tracebackhide__ = True
        import petl_bench  # noqa: PLC0415 - a plugin must not slow down who does not use it

        given = {**self._defaults, **options}
        baseline, limit = given.pop("baseline", None), given.pop("limit", None)
        fail_on = given.pop("fail_on", ())
        _check_options(given, baseline, limit)
        given.setdefault("name", self._name)
        if optimizer is not None:
            given["optimizer"] = optimizer
        found = petl_bench.simulate(model, batch, **given)
        if limit is not None:
            _check_limit(found, limit)
        if baseline is not None:
            self._check_baseline(found, self._folder / baseline, fail_on)
        return found

    def _check_baseline(self, found: "Footprint", file: Path, fail_on: Any) -> None:
        __tracebackhide__ = True
        import petl_bench  # noqa: PLC0415 - likewise
        from petl_bench.comparison.words import message  # noqa: PLC0415 - likewise

        if self._update:
            found.save(file)
            return
        if not file.exists():
            pytest.fail(f"no baseline {file.name}; pytest --petl-update writes it", pytrace=False)
        base = petl_bench.Footprint.load(file)
        different = _other_question(base, found)
        if different:
            pytest.fail(
                f"{file.name} is of another question: {different}; pytest --petl-update"
                " writes a new one",
                pytrace=False,
            )
        # A renamed test asks the same question still.
        base = base.model_copy(update={"name": found.name})
        outcome = petl_bench.compare(base, found, fail_on=fail_on)
        if outcome.failures:
            what = "\n".join(message(case) for case in outcome.failures)
            pytest.fail(
                f"{what}\nbaseline: {file.name}; if this is meant, pytest --petl-update accepts it",
                pytrace=False,
            )


def _check_options(given: dict[str, Any], baseline: object, limit: object) -> None:
    from petl_bench.errors import UsageError, hint  # noqa: PLC0415 - likewise

    for option in given:
        if option not in {"optimizer", "loss", "step", "gpu", "name"}:
            known = ("baseline", "limit", "fail_on", "loss", "step", "gpu", "name")
            raise UsageError(f"petl_memory.check: no option {option!r}; {hint(option, known)}")
    if baseline is None and limit is None:
        raise UsageError("petl_memory.check: give a baseline, a limit, or both")


def _check_limit(found: "Footprint", limit: str | int) -> None:
    __tracebackhide__ = True
    from petl_bench.errors import UsageError  # noqa: PLC0415 - likewise
    from petl_bench.units import format_bytes, parse_bytes  # noqa: PLC0415 - likewise

    try:
        most = parse_bytes(limit) if isinstance(limit, str) else int(limit)
    except (ValueError, TypeError) as error:
        raise UsageError(f"limit: {error}") from None
    reserved = found.peak_reserved_bytes
    if reserved > most:
        beyond = format_bytes(reserved - most)
        pytest.fail(
            f"{found.name}: peak reserved {format_bytes(reserved)}, limit {format_bytes(most)}:"
            f" {beyond} too much\n{found}",
            pytrace=False,
        )


def _other_question(base: "Footprint", found: "Footprint") -> str:
    """What differs in the question itself; the name may."""
    asked = {
        "batch": (base.batch, found.batch),
        "optimizer": (base.optimizer, found.optimizer),
        "gpu": (base.environment.device, found.environment.device),
    }
    return ", ".join(
        f"{what} was {was}, is {now}" for what, (was, now) in asked.items() if was != now
    )
