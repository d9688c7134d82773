"""What a checkpoint's own config calls for, beside what its headers list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ...loaders.checkpoint import TensorInfo
from ...loaders.config import ModelConfig
from ...schemas import validate
from ..families.names import canonical
from ..families.rules import Role
from ..families.towers import BOUNDS
from ..inventory import Catalogue, Target, catalogue
from ..plan import module_path
from ..recipe import Quantization
from .derive import quantization_of

COMPANIONS = ("scales", "biases")
SETTINGS = frozenset({"bits", "group_size", "mode"})


@dataclass(frozen=True)
class Layout:
    """A config, and the tensors that are there."""

    config: ModelConfig
    tensors: Mapping[str, TensorInfo]

    @cached_property
    def catalogue(self) -> Catalogue:
        """The tables of the family, expanded."""
        return catalogue(self.config)

    @cached_property
    def targets(self) -> Mapping[str, Target]:
        """Every tensor that the config calls for, as before it is packed, by its name in the checkpoint."""
        return {target.name: target for forms in self.catalogue.targets.values() for target in forms}

    @cached_property
    def modules(self) -> Mapping[str, Target]:
        """The weights that belong to a module, by the module's path."""
        return {module_path(name): target for name, target in self.targets.items() if name.endswith(".weight")}

    @cached_property
    def packings(self) -> Packings:
        """The quantization block of the config.

        Raises:
            ConfigError: it breaks its schema.
        """
        return Packings.of(self.config)

    def stated(self, module: str) -> Quantization | None:
        """How the config says that a module is packed: by its own entry, else as all that have scales."""
        if module in self.packings.entries:
            return self.packings.entries[module]
        return self.packings.default if f"{module}.scales" in self.tensors else None

    def packed(self, module: str) -> bool:
        """Whether the weight of a module is stored as words of codes."""
        info = self.tensors.get(f"{module}.weight")
        return info is not None and info.dtype == "U32"

    def is_companion(self, name: str) -> bool:
        """Whether a tensor is the scales or biases of a module that the config calls for."""
        module, _, leaf = name.rpartition(".")
        return leaf in COMPANIONS and module in self.modules

    def drop_reason(self, name: str) -> str | None:
        """Why a conversion leaves a tensor out, packed or not; None where it does not."""
        module, _, leaf = canonical(name).rpartition(".")
        row = self.catalogue.drops.get(f"{module}.{'weight' if leaf in COMPANIONS else leaf}")
        return None if row is None else row.reason


@dataclass(frozen=True)
class Packings:
    """A quantization block; an entry that is None says `false`."""

    default: Quantization | None
    entries: Mapping[str, Quantization | None]

    @classmethod
    def of(cls, config: ModelConfig) -> Packings:
        """Read the block of a config.

        Raises:
            ConfigError: it breaks its schema.
        """
        block = config.quantization
        if block is None:
            return cls(None, {})
        validate(block, "quantization", where="config.json", at="$.quantization")
        entries = {path: entry for path, entry in block.items() if path not in SETTINGS}
        return cls(
            quantization_of(block),
            {path: None if entry is False else quantization_of(entry) for path, entry in entries.items()},
        )


def is_bound(name: str) -> bool:
    """Whether a tensor is a bound of a clipped linear layer."""
    return name.rpartition(".")[2] in BOUNDS


def is_quantizable(target: Target) -> bool:
    """Whether loaders have a packed form of a module: linear layers, embeddings and stacked experts."""
    return len(target.shape) == 2 or target.role is Role.EXPERT
