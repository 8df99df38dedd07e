"""A pretrained backbone: its folder, and what it is."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from petl_bench import backbones, method_spec, registry
from petl_bench.assembly import unsupported
from petl_bench.backbones import FAMILIES, with_head
from petl_bench.backbones.heads import Head
from petl_bench.case import Backbone, Case
from petl_bench.errors import UsageError
from petl_bench.tasks import packaged

_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")
"""Of a repository, what is fetched: no pickles, nor other frameworks' weights."""


@dataclass(frozen=True)
class Weights:
    """A folder as `save_pretrained` writes it, tokenizer included."""

    name: str
    folder: Path

    @cached_property
    def sha256(self) -> str:
        """Hash of the configuration, the tokenizer and the weights."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and any(path.match(pattern) for pattern in _PATTERNS):
                digest.update(path.name.encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def backbone(self, outputs: int, head: Head | None = None) -> Backbone:
        """The architecture: an encoder-decoder, or an encoder with a head of so many `outputs`.

        Without a `head`, that is a classifier of whole texts.

        Raises:
            UsageError: no configuration, or that of another kind of model, or without such a head.
        """
        found = backbones.find(str(self.folder))
        dims = FAMILIES[found.family].dims(found.config)
        if answers_in_text(found):
            return found.model_copy(update={"name": self.name})
        if dims.language_head:
            raise UsageError(
                f"backbone: {self.name} is a decoder; train takes encoders and encoder-decoders"
            )
        config = {**found.config, "num_labels": outputs}
        found = found.model_copy(update={"name": self.name, "config": config})
        return found if head is None else with_head(found, head, outputs)

    def misfit(self, case: Case) -> str | None:
        """Why the case's method does not go with its backbone, or not with these weights of it."""
        method = registry.get(case.method.name)
        config = method_spec.validated_config(method, case.method.config)
        return unsupported(case) or method.unsupported_weights(config, self.folder)


def answers_in_text(backbone: Backbone) -> bool:
    """Whether it is an encoder-decoder, which generates a class's name."""
    dims = FAMILIES[backbone.family].dims(backbone.config)
    return dims.language_head and {"encoder", "decoder"} <= dims.stacks.keys()


def find(name: str) -> Weights:
    """The weights called `name`: packaged ones, a folder's, or of a repository on the hub.

    Raises:
        UsageError: there are none.
    """
    if name in packaged.BACKBONES:
        return Weights(name, packaged.BACKBONES[name]())
    folder = Path(name)
    if not folder.is_dir():
        if name in backbones.names():
            raise UsageError(
                f"backbone: {name} is dimensions without weights; give a folder or a hub id"
            )
        folder = _fetched(name)
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"backbone: {name} has no weights (*.safetensors)")
    return Weights(Path(name).resolve().name, folder)


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for the hub's
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - likewise

    try:
        return Path(snapshot_download(name, allow_patterns=list(_PATTERNS)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"backbone: no folder {name!r}, and the hub does not give it: {first}"
        ) from None
