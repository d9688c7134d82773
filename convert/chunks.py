"""A chunk of rows: read it from the source, turn it into the bytes of the output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..loaders.checkpoint import DTYPE_BYTES, TensorInfo, pread_exactly
from ..loaders.values import UNSIGNED, is_finite
from ..schemas.errors import NonFiniteError
from .decoding import Files, decode_rows
from .encodings import EncodedTensor
from .families.rules import Transpose
from .lattice import Tally, solve
from .plan import Step
from .quantize import STORAGE, Packed, quantize
from .recipe import Quantization
from .uncached import pread_uncached

Array = NDArray[Any]


@dataclass(frozen=True)
class Chunk:
    """Rows `start` to `stop` of a step's output."""

    step: Step
    start: int
    stop: int

    @property
    def source_bytes(self) -> int:
        """Bytes that are read for it."""
        return (self.stop - self.start) * self.step.row_length * DTYPE_BYTES[self.step.source.dtype]


@dataclass(frozen=True)
class Piece:
    """Consecutive bytes of one output tensor, from `offset` on within the tensor; of codes, how they were found."""

    name: str
    offset: int
    data: memoryview
    tally: Tally | None = None


def cut(step: Step, chunk_bytes: int, first: int = 0, last: int | None = None) -> Iterator[Chunk]:
    """The chunks of a step, or of its rows from `first` up to `last`; each reads at most `chunk_bytes`, or one row."""
    row_bytes = step.row_length * DTYPE_BYTES[step.source.dtype]
    rows = max(1, chunk_bytes // max(1, row_bytes))
    end = step.rows if last is None else last
    for start in range(first, end, rows):
        yield Chunk(step, start, min(start + rows, end))


def read(chunk: Chunk, files: Files) -> Array:
    """The chunk's rows as stored in the source, packed ones decoded: unsigned integers [rows, row_length].

    Args:
        chunk: what to read.
        files: descriptors of the source's shards.
    """
    info, step = chunk.step.source, chunk.step
    runs = step.source_runs(chunk.start, chunk.stop)
    if isinstance(info, EncodedTensor):
        pieces = [_decode(info, first, count, step.row_length, files) for first, count in runs]
    else:
        pieces = [_stored(info, first, count, step.row_length, files) for first, count in runs]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _stored(info: TensorInfo, first: int, count: int, length: int, files: Files) -> Array:
    item = DTYPE_BYTES[info.dtype]
    start = info.offset + first * length * item
    data = pread_exactly(files[info.file], count * length * item, start, info.file.name, pread_uncached)
    return np.frombuffer(data, UNSIGNED[item]).reshape(count, length)


def _decode(info: EncodedTensor, first: int, count: int, length: int, files: Files) -> Array:
    """A row of the output may be several of the source's."""
    several = length // info.shape[-1]
    return decode_rows(info, first * several, count * several, files).reshape(count, length)


def arranged(chunk: Chunk, stored: Array) -> Array:
    """Rows as they are read, in the order that the output has: unsigned integers [rows, row_length]."""
    step = chunk.step
    if not isinstance(step.transform, Transpose):
        return stored
    inner = step.source.shape[1:]
    moved: Array = stored.reshape(-1, *inner).transpose(0, *step.transform.axes)
    return moved.reshape(len(stored), -1)


def floats(stored: Array, dtype: str) -> NDArray[np.float32]:
    """Rows as they are read, as the numbers that they are."""
    values: NDArray[np.float32] = stored.view(STORAGE[dtype]).astype(np.float32)
    return values


def convert(chunk: Chunk, stored: Array) -> list[Piece]:
    """The chunk's bytes of every output tensor.

    Raises:
        NonFiniteError: a weight is NaN or infinite, or becomes so in the output's dtype.
    """
    step = chunk.step
    _check_source(stored, step)
    stored = arranged(chunk, stored)
    if step.quantization is None:
        (out,) = step.outputs
        return [_piece(out.name, chunk, _cast(stored, step.source.dtype, out.dtype, step))]
    storage = "BF16" if len(step.outputs) == 2 else step.outputs[1].dtype
    packed, tally = _pack(stored, step, step.quantization, storage)
    arrays: list[Array | None] = [packed.weight, packed.scales, packed.biases]
    for array in arrays[1:]:
        if array is not None and array.dtype in STORAGE.values():
            _check_range(array.view(UNSIGNED[array.itemsize]), storage, step)
    tallies = (tally, None, None)
    return [
        _piece(out.name, chunk, array, counted)
        for out, array, counted in zip(step.outputs, arrays, tallies, strict=False)
        if array is not None
    ]


def _pack(stored: Array, step: Step, packing: Quantization, storage: str) -> tuple[Packed, Tally | None]:
    dtype = step.source.dtype
    if step.lattice is None:
        values = stored.view(STORAGE[dtype]) if dtype == "BF16" else floats(stored, dtype)
        return quantize(values, packing, storage, step.rounding), None
    solution = solve(floats(stored, dtype), step.lattice, storage, bits=packing.bits, rounding=step.rounding)
    return solution.packed, solution.tally


def _check_source(stored: Array, step: Step) -> None:
    if not is_finite(stored, step.source.dtype):
        raise NonFiniteError(
            f"{step.source.name} holds NaN or infinity", where=step.source.file.name, fix="repair the checkpoint"
        )


def _check_range(stored: Array, dtype: str, step: Step) -> None:
    if not is_finite(stored, dtype):
        raise NonFiniteError(
            f"{step.source.name} holds a value too large for {dtype}",
            where=step.source.file.name,
            fix="choose --dtype bfloat16 or float32",
        )


def _cast(stored: Array, source: str, target: str, step: Step) -> Array:
    if source == target:
        return stored
    with np.errstate(over="ignore"):
        cast = stored.view(STORAGE[source]).astype(np.float32).astype(STORAGE[target])
    bits: Array = cast.view(UNSIGNED[cast.itemsize])
    _check_range(bits, target, step)
    return bits


def _piece(name: str, chunk: Chunk, rows: Array, tally: Tally | None = None) -> Piece:
    data = np.ascontiguousarray(rows)
    return Piece(name, chunk.start * (data.nbytes // len(data)), data.view(np.uint8).reshape(-1).data, tally)
