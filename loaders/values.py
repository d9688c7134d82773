"""Weights that are no numbers, NaN and infinity: found by their bits, a block at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import NonFiniteError, ShardError
from ..schemas.files import open_regular
from .checkpoint import DTYPE_BYTES, TensorInfo, blocks

# Where all exponent bits are set, a float is infinite or not a number.
EXPONENT_BITS = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}
UNSIGNED: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
AFFINE = "affine"


@dataclass(frozen=True)
class Code:
    """How the elements of a tensor are stored: where all bits of `mask` are set, there is no number."""

    element: np.dtype[Any]
    mask: int | None


def code_of(info: TensorInfo, mode: str) -> Code:
    """How the elements of a tensor are stored; what has no NaN is read as bytes or words.

    Args:
        info: the tensor.
        mode: how its module is packed, if it is.
    """
    if info.dtype in EXPONENT_BITS:
        return Code(UNSIGNED[DTYPE_BYTES[info.dtype]], EXPONENT_BITS[info.dtype])
    if info.dtype == "U8" and info.name.endswith(".scales"):
        return Code(UNSIGNED[1], 0x7F if mode == "nvfp4" else 0xFF)  # E4M3, E8M0
    if info.dtype == "U32":
        return Code(UNSIGNED[1], 0x7F) if mode == "mxfp8" else Code(UNSIGNED[4], None)
    return Code(UNSIGNED[1], None)


def no_numbers(stored: NDArray[Any], mask: int) -> NDArray[np.bool_]:
    """Where elements have all bits of `mask`."""
    found: NDArray[np.bool_] = (stored & stored.dtype.type(mask)) == mask
    return found


def is_finite(stored: NDArray[Any], dtype: str) -> bool:
    """Whether all of some floats are numbers, in a pass without copies.

    Whatever the sign, the bits of infinity and of NaN are larger than those of any number.

    Args:
        stored: their bits, as unsigned integers.
        dtype: one of `EXPONENT_BITS`.
    """
    infinity, sign = EXPONENT_BITS[dtype], 1 << (8 * stored.itemsize - 1)
    signed = stored.view(f"<i{stored.itemsize}")
    return bool(signed.max(initial=0) < infinity and stored.max(initial=0) < sign | infinity)


def check_finite(tensors: Iterable[TensorInfo], modes: Mapping[str, str]) -> None:
    """Read every tensor that could hold something else than numbers.

    Args:
        tensors: the headers.
        modes: by module, how it is packed; of others, affine.

    Raises:
        NonFiniteError: names the tensor that holds NaN or infinity.
        ShardError: a shard cannot be read.
    """
    for file, infos in groupby(sorted(tensors, key=lambda info: (info.file, info.offset)), lambda info: info.file):
        try:
            with open_regular(file) as stream:
                for info in infos:
                    mode = modes.get(info.name.rpartition(".")[0], AFFINE)
                    _check(info, code_of(info, mode), stream.fileno())
        except OSError as error:
            raise ShardError(f"cannot be read: {error.strerror}", where=file.name) from None


def _check(info: TensorInfo, code: Code, descriptor: int) -> None:
    if code.mask is None:
        return
    for block in blocks(info, descriptor):
        if no_numbers(np.frombuffer(block, code.element), code.mask).any():
            raise NonFiniteError(
                f"{info.name} holds NaN or infinity", where=info.file.name, fix="convert the checkpoint again"
            )
