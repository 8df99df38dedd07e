"""A tiny backbone, the command line in this process, and methods that misbehave."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pytest

from petl_bench import registry
from petl_bench.cli import main

TINY = {
    "model_type": "t5",
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
}

FAKE_METHODS = '''
"""Methods that go wrong, each in one way."""

import os
import signal
import sys
import time

from petl_bench.method import Method, MethodConfig


class Config(MethodConfig):
    """Nothing to choose."""


def noisy(model, ports, config):
    print("noise by print", flush=True)
    os.write(1, b"noise by the file descriptor\\n")
    return model


def raising(model, ports, config):
    raise RuntimeError("\\nthe target was not found\\nhere is a long story\\nof many lines")


def exiting(model, ports, config):
    print("no licence", file=sys.stderr)
    sys.exit(3)


def killed(model, ports, config):
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(model, ports, config):
    os.kill(os.getppid(), signal.SIGKILL)  # what holds the lane: of use elsewhere alone
    time.sleep(300)


def deadly_once(model, ports, config):
    try:
        os.close(os.open(os.environ["ONCE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return model
    deadly(model, ports, config)


def sleeping(model, ports, config):
    if "AWAKE" not in os.environ:
        time.sleep(300)
    return model


def fake(name, attach, **options):
    return Method(
        name=name,
        title=name,
        source="made up",
        config=Config,
        attach=attach,
        trainable_parameters=lambda dims, config: 0,
        **options,
    )


NOISY = fake("noisy", noisy)
RAISING = fake("raising", raising)
EXITING = fake("exiting", exiting)
KILLED = fake("killed", killed)
DEADLY = fake("deadly", deadly)
DEADLY_ONCE = fake("deadly_once", deadly_once)
SLEEPING = fake("sleeping", sleeping)
UNWILLING = fake(
    "unwilling", noisy, unsupported=lambda dims, config: f"no way with {dims.num_heads} heads"
)
'''
_FAKE_NAMES = (
    "noisy",
    "raising",
    "exiting",
    "killed",
    "deadly",
    "deadly_once",
    "sleeping",
    "unwilling",
)


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code and output."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Factory: run petl-bench with arguments in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["petl-bench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return Finished(left.value.code or 0, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A config folder of a network with two layers a stack."""
    folder = tmp_path_factory.mktemp("configs") / "tiny-t5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    return folder


@pytest.fixture(scope="session")
def fake_package(tmp_path_factory):
    """A folder that offers the misbehaving methods as an installed package would."""
    folder = tmp_path_factory.mktemp("fakes")
    (folder / "fake_methods.py").write_text(FAKE_METHODS)
    info = folder / "fake_methods-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-methods\nVersion: 1\n")
    points = [f"{name} = fake_methods:{name.upper()}" for name in _FAKE_NAMES]
    (info / "entry_points.txt").write_text("\n".join(["[petl_bench.methods]", *points, ""]))
    return folder


@pytest.fixture(scope="module")
def fake_methods(fake_package):
    """The misbehaving methods known, to this process and to workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(fake_package))
        patch.syspath_prepend(str(fake_package))
        _forget_methods()
        yield
    _forget_methods()


def _forget_methods():
    registry._locations.cache_clear()
    registry.get.cache_clear()
    sys.modules.pop("fake_methods", None)


@pytest.fixture
def start_command(tmp_path):
    """Start petl-bench in a session of its own, which ends with the test at the latest."""
    started = []
    # Records from another revision are made again, and the checkout may change under this test.
    environment = {**os.environ, "GIT_DIR": str(tmp_path / "no-repository")}

    def start(*arguments, **variables):
        process = subprocess.Popen(
            [sys.executable, "-m", "petl_bench", *map(str, arguments)],
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Tests that a shell runs in the background have inherited that it is ignored.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
