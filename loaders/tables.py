"""The table of per-layer embeddings (PLE) on the CPU: it stays in its file, and rows are read as they are looked up.

It is the largest tensor of E2B and E4B, and a token needs one row of it. mlx makes no array of a mapped file on Linux,
and a GPU would wait for every token to come to the host first, so elsewhere the table is loaded like the rest.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .checkpoint import TensorInfo
from .linear import PARTS, Packed, dequantize, packing_of
from .model import Network, language_model, text_prefix
from .module import Module

PLE_TABLE = "embed_tokens_per_layer"

DTYPES: Mapping[str, mx.Dtype] = {
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "F32": mx.float32,
    "U32": mx.uint32,
    "U8": mx.uint8,
}

Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class MappedTensor:
    """A matrix in a file, of which only the rows that are used come to memory.

    Attributes:
        rows: the bytes [rows, bytes of a row].
        dtype: of the numbers that they are.
    """

    rows: NDArray[np.uint8]
    dtype: mx.Dtype

    @classmethod
    def open(cls, info: TensorInfo) -> MappedTensor:
        """Map a tensor of a checkpoint."""
        with info.file.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        # The rows of a prompt are no neighbours: nothing is read ahead.
        mapped.madvise(mmap.MADV_RANDOM)
        rows = np.frombuffer(mapped, np.uint8, info.nbytes, info.offset).reshape(info.shape[0], -1)
        return cls(rows, DTYPES[info.dtype])


@dataclass(frozen=True)
class MappedMatrix:
    """A weight in a file.

    Attributes:
        parts: the weight; where it is packed its words, scales and, in affine mode, biases.
        packing: the arguments of `mx.dequantize`; None where it is not packed.
    """

    parts: tuple[MappedTensor, ...]
    packing: Mapping[str, Any] | None


@dataclass(frozen=True)
class Reserved:
    """Room for rows of a matrix, which a graph may use before it is known which rows they are.

    Attributes:
        matrix: whose rows they are.
        parts: for each part the bytes [..., bytes of a row]; evaluated, so that they can be filled in place.
    """

    matrix: MappedMatrix
    parts: tuple[mx.array, ...]

    @classmethod
    def make(cls, matrix: MappedMatrix, shape: tuple[int, ...]) -> Reserved:
        """Room for as many rows as the shape says."""
        return cls(matrix, tuple(mx.array(np.zeros((*shape, part.rows.shape[1]), np.uint8)) for part in matrix.parts))

    @property
    def rows(self) -> mx.array:
        """[..., columns], lazy; float32 where the weight is packed."""
        found = [data.view(part.dtype) for data, part in zip(self.parts, self.matrix.parts, strict=True)]
        return found[0] if self.matrix.packing is None else dequantize(found, self.matrix.packing)

    def fill(self, numbers: Numbers) -> None:
        """Read the rows; nothing that uses them may have been evaluated before."""
        for data, part in zip(self.parts, self.matrix.parts, strict=True):
            np.asarray(data)[...] = part.rows[numbers]


class MappedTable(Module):
    """An embedding table without parameters: ids [B, L] to rows [B, L, columns].

    It waits for the ids at once or, inside of `lookups_at_exit`, at the end of that.
    """

    def __init__(self, matrix: MappedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    def __call__(self, ids: mx.array) -> mx.array:
        """See `Reserved.rows`."""
        reserved = Reserved.make(self.matrix, ids.shape)
        waiting = _WAITING.get()
        if waiting is None:
            reserved.fill(np.array(ids))
        else:
            waiting.append((reserved, ids))
        return reserved.rows


_WAITING: ContextVar[list[tuple[Reserved, mx.array]] | None] = ContextVar("_WAITING", default=None)


@contextmanager
def lookups_at_exit() -> Iterator[None]:
    """Build the graph of a pass while the device still computes its tokens: tables are looked up when the block ends.

    Nothing that depends on a lookup may be evaluated inside of the block.
    """
    before = _WAITING.set([])
    try:
        yield
        for reserved, ids in _WAITING.get() or ():
            reserved.fill(np.array(ids))
    finally:
        _WAITING.reset(before)


def map_table(network: Network, tensors: Mapping[str, TensorInfo]) -> None:
    """Leave the PLE table in its file, where a network has one.

    Args:
        network: with the modules quantized that the checkpoint holds packed.
        tensors: the headers of the checkpoint, which fit the network.
    """
    text = language_model(network)
    if not text.config.has_ple:
        return
    table, path = text.model[PLE_TABLE], f"{text_prefix(network)}model.{PLE_TABLE}"
    stored = [tensors[name] for leaf in PARTS if (name := f"{path}.{leaf}") in tensors]
    packing = packing_of(table) if isinstance(table, Packed) else None
    text.model[PLE_TABLE] = MappedTable(MappedMatrix(tuple(map(MappedTensor.open, stored)), packing))
