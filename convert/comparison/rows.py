"""Rows of a weight as one side stores it: as bytes to compare, and as the numbers that they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...loaders.checkpoint import TensorInfo
from ..chunks import Array, Chunk, arranged, floats, read
from ..decoding import Files
from ..encodings import EncodedTensor
from ..families.rules import Shape
from ..plan import Step
from ..quantize import STORAGE, Floats
from ..recipe import Quantization
from ..rows import packed_rows
from ..verification.deviation import UNIT, allowance, decode

# A refit may carry a weight 1.8 steps away for the good of its group.
STEPS = 2
# Half of float16's smallest step; the other formats have none that matters.
SMALLEST_HALF = 2.0**-25


@dataclass(frozen=True)
class Values:
    """Some rows as numbers, one after the other.

    Attributes:
        numbers: float32 [elements].
        slack: how far rounding may have carried each of them, float32 [elements]; None where that is not known.
        dtype: in which they are stored; None where they are packed.
    """

    numbers: Floats
    slack: Floats | None
    dtype: str | None = None


class Rows(Protocol):
    """A weight, read a few rows at a time."""

    @property
    def shape(self) -> Shape:
        """Of the weight in an MLX checkpoint, before it is packed."""

    @property
    def row_length(self) -> int:
        """Elements that are read together."""

    def stored(self, start: int, stop: int, files: Files) -> bytes:
        """Rows as they are stored, in the order of an MLX checkpoint."""

    def values(self, start: int, stop: int, files: Files) -> Values:
        """Rows as numbers."""


@dataclass(frozen=True)
class PlainRows:
    """A weight that is not packed, or in a source's way; of that the rows that it decodes to."""

    step: Step

    @property
    def shape(self) -> Shape:
        """See `Rows`."""
        return self.step.shape

    @property
    def row_length(self) -> int:
        """See `Rows`; of a transposed convolution one kernel."""
        return self.step.row_length

    def stored(self, start: int, stop: int, files: Files) -> bytes:
        """See `Rows`."""
        return self._bits(start, stop, files).tobytes()

    def values(self, start: int, stop: int, files: Files) -> Values:
        """See `Rows`."""
        source = self.step.source
        numbers = floats(self._bits(start, stop, files), source.dtype).reshape(-1)
        if isinstance(source, EncodedTensor):
            return Values(numbers, None)
        with np.errstate(all="ignore"):
            slack = np.abs(numbers) * np.float32(UNIT[STORAGE[source.dtype]]) + np.float32(SMALLEST_HALF)
        return Values(numbers, slack, source.dtype)

    def _bits(self, start: int, stop: int, files: Files) -> Array:
        chunk = Chunk(self.step, start, stop)
        return arranged(chunk, read(chunk, files))


@dataclass(frozen=True)
class PackedRows:
    """A weight that is packed in MLX's way.

    Attributes:
        entries: codes, scales and, in affine mode, biases.
        shape: of the weight before it was packed.
        packing: bits, group size and mode.
    """

    entries: tuple[TensorInfo, ...]
    shape: Shape
    packing: Quantization

    @property
    def row_length(self) -> int:
        """See `Rows`."""
        return self.shape[-1]

    def stored(self, start: int, stop: int, files: Files) -> bytes:
        """See `Rows`."""
        packed = packed_rows(self.entries, self._count, start, stop, files)
        arrays = (packed.weight, packed.scales, packed.biases)
        return b"".join(array.tobytes() for array in arrays if array is not None)

    def values(self, start: int, stop: int, files: Files) -> Values:
        """See `Rows`."""
        packed = packed_rows(self.entries, self._count, start, stop, files)
        numbers = decode(packed, self.packing)
        groups = numbers.reshape(len(numbers), -1, self.packing.group_size)
        with np.errstate(all="ignore"):
            slack = np.broadcast_to(STEPS * allowance(groups, packed, self.packing), groups.shape)
        return Values(numbers.reshape(-1), slack.reshape(-1))

    @property
    def _count(self) -> int:
        return math.prod(self.shape[:-1])
