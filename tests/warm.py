"""Python processes that need not import torch first: forks of this one, which has.

A process of its own is what many tests are about (it is killed, interrupted, outlived); the seconds
in which it imports what this one has imported are not. Others start cold: those about imports,
about another copy of the package or another order of hashing, and those of whole commands in a
shell.
"""

import faulthandler
import gc
import importlib.util
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from contextlib import contextmanager, suppress
from functools import partial

import pytest

FIRST_FD = 3  # after stdin, stdout and stderr


class WarmPopen(subprocess.Popen):
    """A child that runs a module or a file in this Python is forked, others start as ever."""

    def __init__(self, args, *, env=None, preexec_fn=None, **options):
        program, *arguments = map(str, args)
        if program == sys.executable and "-c" not in arguments:
            variables = dict(os.environ if env is None else env)
            # Called where exec would come next, with its pipes in place; it does not return.
            preexec_fn = partial(_interpret, arguments, variables, preexec_fn)
        super().__init__(args, env=env, preexec_fn=preexec_fn, **options)


def _interpret(arguments, variables, preexec_fn):
    """What `python ARGUMENTS` does in an environment of `variables`, to the end of the process."""
    code = 1
    try:
        if preexec_fn is not None:
            preexec_fn()
        _begin(variables)
        _run(arguments)
        code = 0
    except SystemExit as left:
        if isinstance(left.code, str):
            sys.stderr.write(f"{left.code}\n")
        else:
            code = left.code or 0
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _begin(variables):
    """Put aside what a new process would not have: files, handlers, filters, what was found."""
    gc.freeze()  # no file of the parent's is closed as garbage when its number is another's
    faulthandler.disable()
    os.closerange(FIRST_FD, os.sysconf("SC_OPEN_MAX"))  # with which the parent goes on
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    warnings.resetwarnings()
    os.environ.clear()
    os.environ.update(variables)
    found = [folder for folder in variables.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:0] = [folder for folder in found if folder not in sys.path]
    importlib.invalidate_caches()
    from petl_bench import registry

    registry._locations.cache_clear()
    registry.get.cache_clear()


def _run(arguments):
    """Of `python [-P] -m MODULE ...` and `python FILE ...`; the file stands for its module."""
    while arguments[0] == "-P":  # what comes from the current folder has been imported by now
        arguments = arguments[1:]
    if arguments[0] == "-m":
        module = importlib.util.find_spec(arguments[1])
        if module.submodule_search_locations:
            module = importlib.util.find_spec(f"{arguments[1]}.__main__")
        arguments = [module.origin, *arguments[2:]]
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


@contextmanager
def warmed():
    """Inside, children that run a Python module or file are forked, and so are theirs."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():  # which does not survive a fork
            patch.setattr(subprocess, "Popen", WarmPopen)
        yield


@pytest.fixture(scope="session")
def warm():
    """The context within which processes are warm."""
    return warmed


@pytest.fixture
def warm_processes():
    """Processes that this test starts are warm."""
    with warmed():
        yield
