"""Adapters that a method starts from: saved ones, or new ones that are made for it.

Peft loads such adapters from folders. Where a folder would stand there may be `peft:lora[r=16]`: a
new adapter of that kind, which is written to a folder without weights, so that it keeps those that
peft draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from petl_bench.errors import UsageError
from petl_bench.method_spec import parse_specs, validated_config

NEW = "peft:"


@contextmanager
def in_folders(config: Any, task: str) -> Iterator[Any]:
    """Peft's object `config`; inside, what it starts from lies in folders.

    Raises:
        UsageError: a new adapter of another kind than peft's own, or with bad fields.
    """
    adapters = getattr(config, "adapters", None)
    if not adapters or not any(place.startswith(NEW) for place in adapters.values()):
        yield config
        return
    with TemporaryDirectory() as folder:
        made = {}
        for name, place in adapters.items():
            made[name] = place
            if place.startswith(NEW):
                made[name] = str(Path(folder) / name)
                _write(place, task, Path(made[name]))
        config.adapters = made
        yield config


def _write(spec: str, task: str, folder: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415 - it takes a while

    from petl_bench import registry  # noqa: PLC0415 - it finds this room's methods

    ((_, choice),) = parse_specs(spec)
    config: Any = validated_config(registry.get(choice.name), choice.config)
    try:
        config.peft_config(task).save_pretrained(str(folder))
    except ValueError as error:
        raise UsageError(f"{spec}: {error}") from None
    save_file({}, folder / "adapter_model.safetensors")
