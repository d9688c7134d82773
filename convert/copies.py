"""Whether a tensor is a copy of another, as the config says."""

from __future__ import annotations

from collections.abc import Iterable

from ..loaders.checkpoint import TensorInfo, pread_exactly
from ..schemas.errors import TensorError
from .decoding import Files
from .inventory import Drop


def check_copies(drops: Iterable[Drop], files: Files) -> None:
    """Refuse to drop as a copy what is none, bit for bit.

    Raises:
        TensorError: names the tensor that differs.
    """
    for drop in drops:
        if drop.copy_of is not None and not _same_bytes(drop.source, drop.copy_of, files):
            raise TensorError(
                f"{drop.source.name} differs from {drop.copy_of.name}, to which the config ties it",
                where=drop.source.file.name,
                fix="set tie_word_embeddings to false in config.json to keep both",
            )


def _same_bytes(one: TensorInfo, other: TensorInfo, files: Files) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if one.parts != (one,) or other.parts != (other,):
        pairs = list(zip(one.parts, other.parts, strict=False))
        return len(one.parts) == len(other.parts) and all(_same_bytes(*pair, files) for pair in pairs)
    block = 1 << 20
    for start in range(0, one.nbytes, block):
        count = min(block, one.nbytes - start)
        blocks = (pread_exactly(files[info.file], count, info.offset + start, info.file.name) for info in (one, other))
        if next(blocks) != next(blocks):
            return False
    return True
