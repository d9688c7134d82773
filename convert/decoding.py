"""Rows of a packed source tensor, decoded a block at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..loaders.checkpoint import DTYPE_BYTES, TensorInfo, pread_exactly
from ..schemas.errors import ShardError, TensorShapeError
from .encodings import EncodedTensor
from .quantize import E4M3, STORAGE, Bytes, Floats
from .schemes import FP8, INT4
from .uncached import pread_uncached

Files = Mapping[Path, int]
"""Descriptors of open shards."""

SCALES = STORAGE | {"F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu)}
# Weights that are decoded at once: little beside the chunk whose rows they are.
BLOCK_WEIGHTS = 1 << 16

_BYTES = np.arange(256, dtype=np.uint8)
_HALVES = np.stack([_BYTES & 15, _BYTES >> 4], axis=-1).astype(np.float32) - np.float32(8)
TABLES: Mapping[str, NDArray[Any]] = {INT4: _HALVES.view(np.uint64)[:, 0], FP8: _BYTES.view(E4M3).astype(np.float32)}
"""The elements in a byte as float32 numbers side by side, [256]; of int4 the low half comes first."""


@contextmanager
def open_files(shards: Iterable[Path]) -> Iterator[Files]:
    """File descriptors of shards.

    Raises:
        ShardError: one cannot be read.
    """
    with ExitStack() as stack:
        files = {}
        for shard in shards:
            try:
                files[shard] = os.open(shard, os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"cannot be read: {error.strerror}", where=shard.name) from None
            stack.callback(os.close, files[shard])
        yield files


def decode_rows(info: EncodedTensor, first: int, count: int, files: Files) -> NDArray[Any]:
    """Rows of a packed tensor, matrices of a stack one after the other, as an unpacked source would hold them.

    Args:
        info: the tensor.
        first: of all its rows.
        count: how many.
        files: descriptors of the shards that hold codes and scales.

    Returns:
        unsigned integers [count, columns], the bits of `info.dtype`.
    """
    columns = info.shape[-1]
    codes = _read(info.codes, first, count, _row_bytes(info), files).reshape(count, -1)
    which = _scale_rows(info, first, count)
    scales = _scales(info, int(which[0]), int(which[-1]) + 1, files)
    target = STORAGE[info.dtype]
    decoded = np.empty((count, columns), target)
    step = max(1, BLOCK_WEIGHTS // columns)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        decoded[rows] = _decode(codes[rows], scales[which[rows] - which[0]], info)
    bits: NDArray[Any] = decoded.view(f"<u{target.itemsize}")
    return bits


def _decode(codes: Bytes, scales: Floats, info: EncodedTensor) -> NDArray[Any]:
    """Some rows: codes uint8 [rows, bytes] and scales float32 [rows, columns of blocks] to `info.dtype`."""
    columns = info.shape[-1]
    values = TABLES[info.elements].take(codes).view(np.float32)
    with np.errstate(all="ignore"):  # a scale that is no number is said of the weight
        values *= np.repeat(scales, info.block[1], axis=1)[:, :columns]
        decoded: NDArray[Any] = values.astype(STORAGE[info.dtype], copy=False)
    return decoded


def _row_bytes(info: EncodedTensor) -> int:
    rows = info.size // info.shape[-1]
    return info.codes.nbytes // rows


def _scale_rows(info: EncodedTensor, first: int, count: int) -> NDArray[np.intp]:
    """For each row of weights the row of scales."""
    height = info.shape[-2]
    matrix, row = np.divmod(np.arange(first, first + count), height)
    found: NDArray[np.intp] = matrix * -(-height // info.block[0]) + row // info.block[0]
    return found


def _scales(info: EncodedTensor, start: int, stop: int, files: Files) -> Floats:
    """Rows of scales: float32 [stop - start, columns of blocks]."""
    wide = -(-info.shape[-1] // info.block[1])
    stored = _read(info.scale, start, stop - start, wide * DTYPE_BYTES[info.scale.dtype], files)
    scales: Floats = stored.view(SCALES[info.scale.dtype]).astype(np.float32).reshape(-1, wide)
    return scales


def _read(info: TensorInfo, first: int, count: int, row_bytes: int, files: Files) -> Bytes:
    start = info.offset + first * row_bytes
    data = pread_exactly(files[info.file], count * row_bytes, start, info.file.name, pread_uncached)
    return np.frombuffer(data, np.uint8)


def check_stated_shapes(tensors: Iterable[TensorInfo], files: Files) -> None:
    """The shape that is stored beside packed weights must be theirs.

    Raises:
        TensorShapeError: it is another one.
    """
    for info in tensors:
        if not isinstance(info, EncodedTensor) or info.stated_shape is None:
            continue
        stated = info.stated_shape
        data = pread_exactly(files[stated.file], stated.nbytes, stated.offset, stated.file.name)
        shape = np.frombuffer(data, f"<i{DTYPE_BYTES[stated.dtype]}").tolist()
        if shape != list(info.shape):
            raise TensorShapeError(
                f"{stated.name} says {shape}, the packed weights are {list(info.shape)}", where=stated.file.name
            )
