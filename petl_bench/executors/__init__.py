"""Where cases run, behind the interface of `concurrent.futures.Executor`.

Each is a pool of threads, one a lane, that wait for what runs elsewhere: a worker process, a Ray
task, a Slurm job. So the size of the pool is how many cases are under way.
"""

from concurrent.futures import Executor
from pathlib import Path

from petl_bench.errors import UsageError
from petl_bench.record import Origin

NAMES = ("local", "ray", "slurm")


def start(name: str, lanes: int | None, origin: Origin, folder: Path) -> Executor:
    """The executor called `name`, with as many lanes as it sees fit if `lanes` is None.

    `folder` is the run's; Slurm keeps its scripts and logs in it.

    Raises:
        UsageError: no such executor, or not here; too many lanes or none.
    """
    if lanes is not None and lanes < 1:
        raise UsageError(f"lanes: must be at least 1 (got {lanes})")
    gpus = int(origin is Origin.MEASURED)
    try:
        match name:
            case "local":
                return _local(lanes, measuring=bool(gpus))
            case "ray":
                from petl_bench.executors.on_ray import RayExecutor  # noqa: PLC0415 - an extra

                return RayExecutor(lanes, gpus=gpus)
            case "slurm":
                from petl_bench.executors.on_slurm import SlurmExecutor  # noqa: PLC0415 - likewise

                return SlurmExecutor(folder / "slurm", lanes, gpus=gpus)
    except ModuleNotFoundError as error:
        if error.name not in {"ray", "submitit"}:
            raise
        raise UsageError(
            f"executor: {name} needs {error.name}; pip install 'petl-bench[{name}]'"
        ) from None
    raise UsageError(f"executor: {name!r} is not one of {', '.join(NAMES)}")


def _local(lanes: int | None, *, measuring: bool) -> Executor:
    from petl_bench.executors.local import LocalExecutor  # noqa: PLC0415 - as the others

    if not measuring:
        return LocalExecutor(lanes or 1)
    return LocalExecutor(devices=_cuda_devices()[:lanes])  # no device has two cases at once


def _cuda_devices() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the devices that this process may use."""
    import os  # noqa: PLC0415

    import torch  # noqa: PLC0415 - only where something is measured

    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return names.split(",")[:count] if names else [str(number) for number in range(count)]
