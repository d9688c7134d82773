"""The checkpoint that is looked at: opened, and not refused for what a conversion would refuse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...loaders.checkpoint import Checkpoint, TensorInfo, find, read_config
from ...loaders.config import ModelConfig
from ...loaders.media.config import MediaSettings
from ...schemas import read_json, validate
from ..encodings import group_tensors
from ..families.names import canonical, mlx_name
from ..manifest import MANIFEST
from ..schemes import Scheme, read_scheme
from ..source import HUB_ID, PROCESSOR, Located, locate
from ..verification.layout import Layout
from .remote import headers_of


@dataclass(frozen=True)
class Subject:
    """A checkpoint, by its headers.

    Attributes:
        located: where it lies.
        whole: whether its weights are here; of one on the Hub only the headers are.
        document: `config.json` as parsed.
        config: the same, typed.
        scheme: how the config says that weights are packed, other than in MLX's way.
        checkpoint: the headers; packed weights stand there as the tensors that they decode to, except MLX's.
        media: what its processor config says; None where there is none.
        generator: what its manifest says made it; None where it has none.
    """

    located: Located
    whole: bool
    document: Mapping[str, Any]
    config: ModelConfig
    scheme: Scheme | None
    checkpoint: Checkpoint
    media: MediaSettings | None
    generator: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """What people call it."""
        if self.located.repo_id is None:
            return self.located.folder.resolve().name
        return f"{self.located.repo_id}@{self.located.commit}"

    @cached_property
    def layout(self) -> Layout:
        """The config beside the tensors, by the names that an MLX checkpoint has for them."""
        return Layout(self.config, {self._mlx_name(name): info for name, info in self.checkpoint.tensors.items()})

    def _mlx_name(self, name: str) -> str:
        return mlx_name(canonical(name), text_only=self.config.text_only)

    @cached_property
    def converted(self) -> bool:
        """Whether it is an MLX checkpoint: it says how weights are packed, or bears their names."""
        if self.config.quantization is not None or self.generator is not None:
            return True
        return all(self._mlx_name(name) == name for name in self.checkpoint.tensors) and self._is_laid_out_for_mlx()

    def _is_laid_out_for_mlx(self) -> bool:
        targets = self.layout.targets
        shapes = ((targets[name].shape, info.shape) for name, info in self.layout.tensors.items() if name in targets)
        return not self.config.text_only and all(expected == found for expected, found in shapes)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The entries of the headers by their MLX names."""
        return self.layout.tensors


@contextmanager
def opened(path: str | Path, revision: str | None = None) -> Iterator[Subject]:
    """Open a checkpoint, in a folder or on the Hub, for as long as it is looked at.

    Args:
        path: a folder, `org/name`, or `org/name@revision`.
        revision: a branch, tag or commit on the Hub.

    Raises:
        G4ConvertError: it is not there, its headers are damaged, or its architecture is none of ours.
    """
    match = HUB_ID.fullmatch(str(path))
    if match is None or Path(path).expanduser().exists():
        yield _open(locate(path, revision, check=_nothing), whole=True)
        return
    with headers_of(match["id"], revision or match["revision"]) as located:
        yield _open(located, whole=False)


def _nothing(_: Path) -> None:
    """A folder is already here."""


def _open(located: Located, *, whole: bool) -> Subject:
    folder = located.folder
    document, config = read_config(folder)
    scheme = read_scheme({key: value for key, value in document.items() if key != "quantization"})
    checkpoint = Checkpoint.open(folder)
    if scheme is not None:
        checkpoint = replace(checkpoint, tensors=group_tensors(checkpoint.tensors, scheme))
    return Subject(located, whole, document, config, scheme, checkpoint, _media(folder), _generator(folder))


def _media(folder: Path) -> MediaSettings | None:
    file = find(folder, PROCESSOR)
    if file is None:
        return None
    document = read_json(file)
    validate(document, "processor_config", where=PROCESSOR)
    return MediaSettings.from_dict(document)


def _generator(folder: Path) -> Mapping[str, Any] | None:
    """What `conversion.json` says made the checkpoint, and of what."""
    file = find(folder, MANIFEST)
    if file is None:
        return None
    document = read_json(file)
    validate(document, "conversion", where=MANIFEST)
    return {**document["generator"], "source": document["source"], "recipe": document["options"]["recipe"]}
