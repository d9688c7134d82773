"""What is verified: a converted checkpoint, its manifest, and the source that it was made from.

Each property reads what it needs when it is first asked for, and raises what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...loaders.checkpoint import Checkpoint, read_config
from ...loaders.config import ModelConfig
from ...loaders.prompt import PromptFormat
from ...schemas import read_json, validate
from ..manifest import MANIFEST
from ..source import Source, find_sidecars
from .derive import Derived, derive
from .layout import Layout


@dataclass(frozen=True)
class Subject:
    """A folder to verify, with its source where that is given."""

    folder: Path
    source: Source | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The validated headers; see `Checkpoint.open` for what is raised."""
        return Checkpoint.open(self.folder)

    @cached_property
    def document(self) -> dict[str, Any]:
        """`config.json` as parsed; see `read_config` for what is raised."""
        return read_config(self.folder)[0]

    @cached_property
    def config(self) -> ModelConfig:
        """`config.json`, typed."""
        return read_config(self.folder)[1]

    @cached_property
    def layout(self) -> Layout:
        """What the config calls for, beside what is there."""
        return Layout(self.config, self.checkpoint.tensors)

    @cached_property
    def sidecars(self) -> dict[str, Path]:
        """The small files beside weights and config, by name."""
        return find_sidecars(self.folder)

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """`conversion.json`; None where another tool made the checkpoint.

        Raises:
            ConfigError: it breaks its schema.
        """
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        document: dict[str, Any] = read_json(path)
        validate(document, "conversion", where=MANIFEST)
        return document

    @cached_property
    def prompt(self) -> PromptFormat:
        """The tokenizer, the chat template and the stop tokens; see `PromptFormat.open` for what is raised."""
        return PromptFormat.open(self.folder, self.config, strict=False)

    @cached_property
    def derived(self) -> Derived | None:
        """What the recorded options make of the source; None where the source or the manifest is not there.

        Raises:
            G4ConvertError: the source cannot be converted so.
        """
        if self.source is None or self.manifest is None:
            return None
        return derive(self.source, self.manifest)
