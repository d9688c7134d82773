"""The weights of a model: how many there are of each, and how they are packed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .runtime import Runtime

PLE_TABLE = "language_model.embed_tokens_per_layer"
SCALE = 4
"""Bytes of an expert's scale on the CPU, see `loading.cast`."""


@dataclass(frozen=True)
class Weight:
    """One weight as a checkpoint holds it.

    Attributes:
        shape: before it is packed.
        nbytes: as stored, with scales and biases.
        bits: of a packed element; None where it is not packed.
        group_size: elements that share a scale; 0 where it is not packed.
        scale_bytes: of all scales and biases.
        exact: whether it keeps its dtype whatever the model is computed in.
    """

    shape: tuple[int, ...]
    nbytes: int
    bits: int | None = None
    group_size: int = 0
    scale_bytes: int = 0
    exact: bool = False

    @property
    def size(self) -> int:
        """Elements, before they are packed."""
        return math.prod(self.shape)


Weights = Mapping[str, Weight]
"""By the name of the module, or of the parameter that is no module's, as the families' tables have it."""


def resident_bytes(weights: Weights, runtime: Runtime) -> int:
    """What weights take once they are read, in the dtypes of `loading.cast`."""
    return sum(_resident(name, weight, runtime) for name, weight in weights.items())


def _resident(name: str, weight: Weight, runtime: Runtime) -> int:
    if name == PLE_TABLE:
        return 0 if runtime.maps_tables else weight.nbytes
    if weight.exact:
        return weight.nbytes
    if weight.bits is None:
        return weight.size * runtime.element
    if runtime.kernels or ".experts." not in name:
        return weight.nbytes
    return weight.nbytes - weight.scale_bytes + weight.scale_bytes * SCALE // 2
