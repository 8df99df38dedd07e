"""The place a case is run in."""

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from petl_bench import __version__
from petl_bench.cards import Card
from petl_bench.record import Environment
from petl_bench.sources import sha256_of_files

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def allocator_conf() -> str:
    """The allocator's options as PyTorch would read them from the environment."""
    return next((os.environ[name] for name in ALLOCATOR_VARIABLES if os.environ.get(name)), "")


@contextmanager
def allocator_options(options: str) -> Iterator[None]:
    """The allocator's options in the environment, where workers read them, and nothing else."""
    before = {name: os.environ.pop(name) for name in ALLOCATOR_VARIABLES if name in os.environ}
    if options:
        os.environ[ALLOCATOR_VARIABLES[0]] = options
    try:
        yield
    finally:
        os.environ.pop(ALLOCATOR_VARIABLES[0], None)
        os.environ.update(before)


def worker_variables(options: str) -> dict[str, str]:
    """This process's environment variables, with the allocator's options as given."""
    kept = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    return kept | ({ALLOCATOR_VARIABLES[0]: options} if options else {})


def simulated_environment(card: Card, emulates: str | None = None) -> Environment:
    """This machine, standing for `card` in the era of PyTorch called `emulates`."""
    return _environment(device=card.name, device_total_bytes=card.memory_bytes, emulates=emulates)


def processor_environment() -> Environment:
    """This machine, without a CUDA device."""
    return _environment(device=_processor())


def _processor() -> str:
    """The processor's own name where Linux knows it."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
        if names:
            return " ".join(names[0].split())
    return platform.processor() or platform.machine()


def measured_environment() -> Environment:
    """This machine and its current CUDA device. Opens a CUDA context."""
    import pynvml  # noqa: PLC0415 - only where there is a driver
    import torch  # noqa: PLC0415 - the parent builds simulated environments without torch

    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:  # CUDA without NVML: WSL, some containers
        driver = None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return _environment(
        device=properties.name,
        device_total_bytes=properties.total_memory,
        cuda=torch.version.cuda,
        driver=driver,
    )


def _environment(
    *,
    device: str,
    device_total_bytes: int | None = None,
    cuda: str | None = None,
    driver: str | None = None,
    emulates: str | None = None,
) -> Environment:
    commit, dirty = _revision()
    return Environment(
        device=device,
        device_total_bytes=device_total_bytes,
        cuda=cuda,
        driver=driver,
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=_version("torch"),
        transformers=_version("transformers"),
        peft=_version("peft"),
        petl_bench=__version__,
        allocator_settings=allocator_conf(),
        commit=commit,
        dirty=dirty,
        harness_sha256=_harness_sha256(),
        emulates=emulates,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@cache
def _harness_sha256() -> str:
    """Hash of this package's source files, methods apart: what a record's numbers rest on."""
    folder = Path(__file__).resolve().parent
    methods = folder / "methods"  # where a wheel puts them
    files = (file for file in folder.rglob("*.py") if not file.is_relative_to(methods))
    return sha256_of_files(folder, files)


@cache
def _revision() -> tuple[str | None, bool | None]:
    """Commit of the checkout this package runs from, and whether it was changed since."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None, None  # an installed copy, perhaps inside somebody else's checkout
    try:
        lines = subprocess.run(  # noqa: S603
            ["git", "-C", folder, "status", "--porcelain=v2", "--branch", "--", ".", "../methods"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None, None
    heads = [line.split()[-1] for line in lines if line.startswith("# branch.oid")]
    commit = heads[0] if heads and heads[0] != "(initial)" else None
    return commit, any(not line.startswith("#") for line in lines)
