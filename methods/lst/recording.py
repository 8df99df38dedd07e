"""What a ladder reads of one pass of its frozen backbone, and that on disk: a file a batch.

    {stack}.embedding      what the side network starts from, [B, T, D]
    {stack}.{index}        what a kept layer returned, [B, T, D]
    last                   the last stack's final states, [B, T, D], for a ladder that merges them
    read.{number}          what side blocks read of the layers' arguments: masks, positions

A safetensors file of these, with a description in its metadata. Nothing is unpickled.
Legend: B batch, T tokens, D hidden size.
"""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

Store = Literal["full", "bf16"]
Noted = dict[int | str, torch.Tensor | None]


class Description(BaseModel):
    """What a file's metadata say of its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    checksums: dict[str, int]  # CRC-32 of each tensor's bytes
    dtypes: dict[str, str]  # of hidden states, before they were rounded
    # By layer, what was read of its arguments: names of tensors, None for what was None.
    args: dict[str, dict[int, str | None]]
    kwargs: dict[str, dict[str, str | None]]


class Reads(dict[Any, Any]):
    """A layer's arguments, positional ones by number, that note what is read of them."""

    def __init__(self, given: Iterable[tuple[int | str, Any]], noted: Noted) -> None:
        super().__init__(given)
        self._noted = noted

    def __getitem__(self, key: int | str) -> Any:
        return self._note(key, super().__getitem__(key))

    def get(self, key: int | str, default: Any = None) -> Any:
        """As dict's, noted."""
        return self._note(key, super().get(key, default))

    def _note(self, key: int | str, value: Any) -> Any:
        if value is not None and not isinstance(value, torch.Tensor):
            raise TypeError(
                f"cached activations hold tensors; a side block reads {key!r}, "
                f"a {type(value).__name__}"
            )
        self._noted[key] = value
        return value


class Known(dict[Any, Any]):
    """The arguments that a side block read when the file was made; it may ask for no others."""

    def get(self, key: int | str, default: Any = None) -> Any:
        """As dict's, but what was not read is an error, not the default."""
        del default
        return self[key]

    def __missing__(self, key: int | str) -> Any:
        raise KeyError(f"a side block reads {key!r}, which none did when the file was made")


class Recording:
    """Listens to a pass, and writes it down.

    With `store="bf16"` the ladder reads what a later pass will read from disk: rounded states.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._hidden: dict[str, torch.Tensor] = {}
        self._dtypes: dict[str, str] = {}
        self._args: dict[str, Noted] = {}
        self._kwargs: dict[str, Noted] = {}

    def hidden(self, name: str, states_BTD: torch.Tensor) -> torch.Tensor:
        """Keep hidden states; returns what the ladder is to read instead of them."""
        self._dtypes[name] = str(states_BTD.dtype).removeprefix("torch.")
        if self.store == "bf16" and states_BTD.element_size() > torch.bfloat16.itemsize:
            rounded_BTD = states_BTD.detach().to(torch.bfloat16)
            self._hidden[name] = rounded_BTD.cpu()
            return rounded_BTD.to(states_BTD.dtype)
        self._hidden[name] = states_BTD.detach().to("cpu", copy=True)
        return states_BTD

    def arguments(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Layer `name`'s arguments, (args, kwargs), in a form that notes what is read."""
        self._args[name], self._kwargs[name] = {}, {}
        return Reads(enumerate(args), self._args[name]), Reads(kwargs.items(), self._kwargs[name])

    def write(self, path: Path, key: str) -> int:
        """Put all of it into `path` at once; returns the file's bytes.

        A reader sees the whole file or none: it is renamed when it is complete.
        """
        from safetensors.torch import save_file  # noqa: PLC0415 - only who caches needs it

        tensors = dict(self._hidden)
        names: dict[int, str] = {}  # layers are called with the same masks

        def name_of(tensor: torch.Tensor | None) -> str | None:
            if tensor is None:
                return None
            if id(tensor) not in names:
                names[id(tensor)] = f"read.{len(names)}"
                tensors[names[id(tensor)]] = tensor.detach().to("cpu", copy=True)
            return names[id(tensor)]

        args = {
            layer: {int(at): name_of(value) for at, value in noted.items()}
            for layer, noted in self._args.items()
        }
        kwargs = {
            layer: {str(at): name_of(value) for at, value in noted.items()}
            for layer, noted in self._kwargs.items()
        }
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        about = Description(
            key=key,
            checksums={name: checksum(tensor) for name, tensor in tensors.items()},
            dtypes=self._dtypes,
            args=args,
            kwargs=kwargs,
        )
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file(tensors, draft, metadata={"about": about.model_dump_json()})
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path.stat().st_size


class Replay:
    """A pass from disk, in the place of the backbone."""

    def __init__(
        self, about: Description, tensors: dict[str, torch.Tensor], device: torch.device
    ) -> None:
        self._about, self._tensors, self._device = about, tensors, device
        self._read = {
            name: tensor.to(device, copy=True)
            for name, tensor in tensors.items()
            if name not in about.dtypes
        }

    def __contains__(self, name: str) -> bool:
        return name in self._about.dtypes

    def hidden(self, name: str) -> torch.Tensor:
        """Hidden states, [B, T, D], which are forgotten here."""
        # A copy, since a file's tensors lie where they lie, and kernels ask for aligned ones.
        dtype = getattr(torch, self._about.dtypes[name])
        return self._tensors.pop(name).to(self._device, dtype, copy=True)

    def unknown(self, stack: str) -> torch.Tensor:
        """In place of states that nobody reads: not-a-number, [B, T, D], one element's memory."""
        embedding_BTD = self._tensors[f"{stack}.embedding"]
        dtype = getattr(torch, self._about.dtypes[f"{stack}.embedding"])
        one = torch.full((), torch.nan, dtype=dtype, device=self._device)
        return one.expand(embedding_BTD.shape)

    def arguments(self, name: str) -> Any:
        """What side blocks read of layer `name`'s arguments: (args, kwargs)."""
        return tuple(
            Known({at: None if value is None else self._read[value] for at, value in noted.items()})
            for noted in (self._about.args[name], self._about.kwargs[name])
        )


def read(path: Path, key: str, device: torch.device) -> Replay | None:
    """What `path` holds; None if it is cut short or changed.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - only who caches needs it

    if not path.stat().st_size:
        return None  # safetensors cannot map it
    try:
        with safe_open(path, framework="pt") as file:
            about = Description.model_validate_json((file.metadata() or {}).get("about", ""))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValidationError):
        return None
    sums = {name: checksum(tensor) for name, tensor in tensors.items()}
    return Replay(about, tensors, device) if (about.key, about.checksums) == (key, sums) else None


def checksum(tensor: torch.Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    return zlib.crc32(raw(tensor))


def raw(tensor: torch.Tensor) -> Any:
    """A tensor's bytes, on the CPU."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy()
