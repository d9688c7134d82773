"""Rows of a checkpoint's tensors as they are stored, a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..loaders.checkpoint import TensorInfo, pread_exactly
from .decoding import Files
from .quantize import STORAGE, Packed

BYTES = np.dtype(np.uint8)


def stored_rows(info: TensorInfo, rows: int, start: int, stop: int, files: Files) -> NDArray[Any]:
    """Rows of one tensor.

    Args:
        info: the tensor.
        rows: how many it has in all, the matrices of a stack one below the other.
        start: the first row to read.
        stop: the row after the last.
        files: descriptors of the shards.

    Returns:
        [stop - start, elements of a row]; what is no float comes as bytes.
    """
    row_bytes = info.nbytes // rows
    data = pread_exactly(files[info.file], (stop - start) * row_bytes, info.offset + start * row_bytes, info.file.name)
    return np.frombuffer(data, STORAGE.get(info.dtype, BYTES)).reshape(stop - start, -1)


def packed_rows(infos: Sequence[TensorInfo], rows: int, start: int, stop: int, files: Files) -> Packed:
    """Rows of a weight that is packed as MLX packs it.

    Args:
        infos: of its codes, its scales and, in affine mode, its biases.
        rows: how many the weight has in all.
        start: the first row to read.
        stop: the row after the last.
        files: descriptors of the shards.
    """
    weight, scales, *biases = (stored_rows(info, rows, start, stop, files) for info in infos)
    return Packed(weight, scales, biases[0] if biases else None)
