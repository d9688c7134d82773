"""One of the two checkpoints: opened, and not refused for what is missing or too many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ...loaders.checkpoint import CONFIG_FILE, DEEPEST, LARGEST_CONFIG, Checkpoint, find, is_deep, read_config, within
from ...loaders.config import ModelConfig, check_model_type
from ...loaders.consistency import GENERATION_CONFIG
from ...loaders.prompt import find_stop_ids
from ...loaders.template import TOKENIZER_CONFIG
from ...schemas import read_json, validate
from ...schemas.errors import ConfigError, QuantizedSourceError
from ..decoding import check_stated_shapes, open_files
from ..encodings import group_tensors
from ..manifest import MANIFEST
from ..schemes import Scheme, read_scheme
from ..source import CARD, PLOT, SCHEMAS, SIDECARS, Located, locate
from .outcome import Summary

# What is about a checkpoint and no part of it: the card and its picture, the manifest, the index of the shards.
ABOUT = frozenset({CARD, PLOT, MANIFEST})
INDEX_ENDING = ".index.json"
UNQUANTIZED = "give the unquantized checkpoint it was made from"


@dataclass(frozen=True)
class Side:
    """A checkpoint that is compared.

    Attributes:
        located: where it lies.
        document: `config.json` as parsed.
        config: what it says; where it is refused, what the other side's says.
        fault: why its config is refused; None where it is not.
        scheme: how the config says that weights are packed, other than in MLX's way.
        checkpoint: the headers; packed weights stand there as the tensors that they decode to, except MLX's.
    """

    located: Located
    document: Mapping[str, Any]
    config: ModelConfig
    fault: str | None
    scheme: Scheme | None
    checkpoint: Checkpoint

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.located.folder

    @property
    def name(self) -> str:
        """What people call it, without the path to it, for reports are handed on."""
        if self.located.repo_id is None:
            return self.folder.resolve().name
        return f"{self.located.repo_id}@{self.located.commit}"

    @property
    def summary(self) -> Summary:
        """What it is, in short."""
        tensors = self.checkpoint.tensors.values()
        count = sum(len(info.parts) for info in tensors)
        return Summary(self.name, self.config.model_type, count, sum(info.nbytes for info in tensors))

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """The files beside config and shards that belong to it, by their names in the folder.

        Raises:
            UnsafeFileError: one is a link that leads out of the checkpoint.
        """
        paths = {path.relative_to(self.folder).as_posix(): path for path in sorted(self.folder.rglob("*"))}
        return {name: within(self.folder, path) for name, path in paths.items() if self._belongs(name, path)}

    def _belongs(self, name: str, path: Path) -> bool:
        hidden = any(part.startswith(".") for part in Path(name).parts)
        known = name in ABOUT or name == CONFIG_FILE or name.endswith(INDEX_ENDING) or path in self.checkpoint.shards
        return path.is_file() and not hidden and not known

    @property
    def is_whole(self) -> bool:
        """Whether all its files are here; of a repository on the Hub, only some kinds are downloaded."""
        return self.located.repo_id is None

    @cached_property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """`tokenizer_config.json`; empty where there is none."""
        return self._optional(TOKENIZER_CONFIG)

    @cached_property
    def generation(self) -> Mapping[str, Any]:
        """`generation_config.json`; empty where there is none."""
        return self._optional(GENERATION_CONFIG)

    @cached_property
    def stop_ids(self) -> frozenset[int] | None:
        """Where answers stop, of all places that say it; None where one of them is not as it should be."""
        if self.fault is not None or not is_valid(self.generation, GENERATION_CONFIG):
            return None
        return find_stop_ids(self.document, self.generation)

    def _optional(self, name: str) -> Mapping[str, Any]:
        file = find(self.folder, name)
        return {} if file is None else read_object(file)


def is_downloaded(name: str) -> bool:
    """Whether a file of a repository on the Hub comes with it."""
    return any(fnmatchcase(name, pattern) for pattern in SIDECARS)


def read_object(file: Path, largest: int | None = None) -> dict[str, Any]:
    """A JSON object, whatever is in it.

    Raises:
        ConfigError: the file cannot be read, is not JSON, holds something else, or is nested too deep.
    """
    document = read_json(file) if largest is None else read_json(file, largest=largest)
    if not isinstance(document, dict):
        raise ConfigError("$: the document is not an object", where=file.name)
    if is_deep(document):
        raise ConfigError(f"$: it is nested deeper than {DEEPEST} levels", where=file.name)
    return document


def is_valid(document: Mapping[str, Any], file: str) -> bool:
    """Whether a file is as its schema calls for."""
    try:
        validate(document, SCHEMAS[file], where=file)
    except ConfigError:
        return False
    return True


def open_sides(a: str | Path, b: str | Path) -> tuple[Side, Side]:
    """Find, download if need be, and open two checkpoints.

    Raises:
        G4ConvertError: one is not there, is of another architecture or a format that is not decoded, or cannot be read.
    """
    one, other = (_said(locate(source, check=_said_in)) for source in (a, b))
    config = one.config or other.config
    if config is None:
        raise ConfigError(one.fault or "", where=one.located.folder.name)
    return _open(one, config), _open(other, config)


@dataclass(frozen=True)
class _Said:
    """What a config says; typed where it can be."""

    located: Located
    document: dict[str, Any]
    config: ModelConfig | None
    fault: str | None
    scheme: Scheme | None


def _said(located: Located) -> _Said:
    folder = located.folder
    document = read_object(within(folder, folder / CONFIG_FILE), LARGEST_CONFIG)
    check_model_type(document)
    read = partial(_Said, located, document, scheme=_scheme(document))
    try:
        return read(config=read_config(folder)[1], fault=None)
    except ConfigError as error:
        return read(config=None, fault=error.what)


def _said_in(folder: Path) -> None:
    """Refuse what cannot be compared, before weights are downloaded."""
    _said(Located(folder))


def _scheme(document: Mapping[str, Any]) -> Scheme | None:
    """How weights are packed, other than in MLX's way."""
    try:
        return read_scheme({key: value for key, value in document.items() if key != "quantization"})
    except QuantizedSourceError as error:
        raise QuantizedSourceError(error.what, where=error.where, fix=UNQUANTIZED) from None


def _open(said: _Said, other: ModelConfig) -> Side:
    config = said.config or replace(other, quantization=said.document.get("quantization"))
    checkpoint = Checkpoint.open(said.located.folder)
    if said.scheme is not None:
        checkpoint = replace(checkpoint, tensors=group_tensors(checkpoint.tensors, said.scheme))
        with open_files(checkpoint.shards) as files:
            check_stated_shapes(checkpoint.tensors.values(), files)
    return Side(said.located, said.document, config, said.fault, said.scheme, checkpoint)
