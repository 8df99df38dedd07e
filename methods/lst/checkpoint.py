"""A ladder on disk: its tensors alone, and a config that names the backbone it grew beside.

    FOLDER/model.safetensors   the ladder's tensors under the names they have in the model, so
                               that transformers.Trainer finds and resumes its own checkpoints
    FOLDER/ladder_config.json  format, options, backbone, sha256 of the tensors' file

Nothing is unpickled, and no code comes out of a folder.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from petl_bench.backbones import class_named

from .config import LstConfig

TENSORS = "model.safetensors"
CONFIG = "ladder_config.json"
FORMAT = 1
_SAMPLES = 64


class LadderError(ValueError):
    """A folder that holds no ladder for this backbone; the message says why."""


class BackboneIdentity(BaseModel):
    """Enough of a backbone to tell it from another."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_name: str
    name_or_path: str
    # Values of its embedding table, spread over the first rows: they outlive quantisation of the
    # layers, a cast, and a vocabulary that grew at its end.
    embedding_sample: tuple[float, ...]

    @classmethod
    def of(cls, model: Any) -> "BackboneIdentity":
        """The identity of a transformers model."""
        return cls(
            class_name=type(model).__name__,
            name_or_path=str(model.config.name_or_path),
            embedding_sample=tuple(_sample(model.get_input_embeddings().weight)),
        )

    def differs_from(self, other: "BackboneIdentity") -> str | None:
        """What is another about `other`; None if it is the same backbone.

        Its head may be another: one pre-trains beside a language head, then classifies.
        """
        if self.class_name != other.class_name and not _share_layers(self, other):
            return f"it is a {other.class_name}, not a {self.class_name}"
        ours, theirs = torch.tensor(self.embedding_sample), torch.tensor(other.embedding_sample)
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-4):
            return "its embeddings are others"
        return None


def _share_layers(one: BackboneIdentity, other: BackboneIdentity) -> bool:
    try:
        kinds = [class_named(each.class_name) for each in (one, other)]
    except ValueError:
        return False
    return kinds[0].config_class is kinds[1].config_class


class LadderFile(BaseModel):
    """What ladder_config.json holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    name: str
    options: dict[str, Any]
    backbone: BackboneIdentity
    tensors_sha256: str


def write_folder(
    folder: str | Path,
    name: str,
    config: LstConfig,
    backbone: BackboneIdentity,
    tensors: dict[str, torch.Tensor],
) -> None:
    """Write a ladder's tensors, by their names inside the ladder, and its config.

    The config comes last, so that a folder that has one is whole.
    """
    from safetensors.torch import save  # noqa: PLC0415 - only who saves needs it

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    prefix = prefix_of(name)
    content = save(
        {prefix + key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
        metadata={"format": "pt"},
    )
    about = LadderFile(
        format=FORMAT,
        name=name,
        options=config.model_dump(mode="json"),
        backbone=backbone,
        tensors_sha256=hashlib.sha256(content).hexdigest(),
    )
    (target / CONFIG).unlink(missing_ok=True)
    (target / TENSORS).write_bytes(content)
    (target / CONFIG).write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_folder(folder: str | Path) -> tuple[LadderFile, dict[str, torch.Tensor]]:
    """What a folder says, and the ladder's tensors by their names inside the ladder.

    Raises:
        LadderError: files that are missing, cut short, changed or of another format.
    """
    from safetensors import SafetensorError  # noqa: PLC0415 - only who loads needs it
    from safetensors.torch import load  # noqa: PLC0415 - likewise

    about = read_about(folder)
    content = _bytes_of(Path(folder) / TENSORS)
    if hashlib.sha256(content).hexdigest() != about.tensors_sha256:
        raise LadderError(
            f"{Path(folder) / TENSORS} is not the file that {CONFIG} describes: cut or changed"
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise LadderError(f"{Path(folder) / TENSORS}: {error}") from None
    prefix = prefix_of(about.name)
    return about, {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def read_about(folder: str | Path) -> LadderFile:
    """What a folder says of its ladder, tensors unread.

    Raises:
        LadderError: its config is missing, invalid or of another format.
    """
    path = Path(folder) / CONFIG
    try:
        about = LadderFile.model_validate_json(_bytes_of(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the document"
        raise LadderError(f"{path}: {field}: {first['msg']}") from None
    if about.format != FORMAT:
        raise LadderError(f"{path}: format {about.format}; this version reads {FORMAT}")
    return about


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LadderError(f"cannot read {path}: {error.strerror}") from None


def options_of(about: LadderFile, folder: str | Path) -> LstConfig:
    """The validated options of a folder's ladder.

    Raises:
        LadderError: options that this version does not know.
    """
    try:
        return LstConfig.model_validate(about.options)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise LadderError(f"{Path(folder) / CONFIG}: options: {field}: {first['msg']}") from None


def prefix_of(name: str) -> str:
    """What the names of a ladder's tensors begin with in the model."""
    return f"ladders.{name}."


def _sample(weight_VD: torch.Tensor) -> list[float]:
    """`_SAMPLES` values spread over the first rows, [min(V, 1000), D]."""
    rows = weight_VD[:1000].detach().flatten()
    picked = torch.linspace(0, rows.numel() - 1, _SAMPLES, dtype=torch.float64).long()
    return [float(value) for value in rows[picked.to(rows.device)].float().cpu()]
