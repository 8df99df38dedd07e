"""A task's data by its id on the Hugging Face hub, through the library `datasets`."""

from typing import Any

from petl_bench.errors import UsageError
from petl_bench.tasks.files import Row
from petl_bench.tasks.task import Task


def read(task: Task) -> dict[str, list[Row] | None]:
    """The rows of train, validation and test; None for a split that the task leaves to us.

    Raises:
        UsageError: the library is not installed, or the hub does not give the data.
    """
    hub = task.hub
    if hub is None:
        raise UsageError(f"task: {task.name} has no data of its own; give --data DIR")
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(
            f"task: {task.name} needs --data DIR, or a network and petl-bench[tasks]"
        ) from None
    try:
        found: Any = datasets.load_dataset(hub.path, hub.config)
        names = {"train": "train", "validation": hub.validation, "test": hub.test}
        return {
            split: [
                Row(f"{hub.path} {hub.config} {name} row {number}", row)
                for number, row in enumerate(found[name], start=1)
            ]
            if name is not None
            else None
            for split, name in names.items()
        }
    except Exception as error:  # noqa: BLE001 - connections, the hub's answers, formats
        first = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"task: the hub does not give {hub.path} {hub.config} ({first}); give --data DIR"
        ) from None
