"""Read the tensors and files of a checkpoint in blocks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...loaders.checkpoint import LARGEST_HEADER, TensorInfo, blocks
from ...schemas.errors import CheckpointError

Descriptors = Mapping[Path, int]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a file into an error with one line.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=path.name) from None


@contextmanager
def open_shards(shards: Iterable[Path]) -> Iterator[Descriptors]:
    """File descriptors of shards."""
    with ExitStack() as stack:
        descriptors = {}
        for shard in shards:
            with readable(shard):
                descriptors[shard] = os.open(shard, os.O_RDONLY)
            stack.callback(os.close, descriptors[shard])
        yield descriptors


def tensor_digest(info: TensorInfo, descriptors: Descriptors) -> str:
    """SHA-256 of a tensor's bytes."""
    digest = hashlib.sha256()
    for block in blocks(info, descriptors[info.file]):
        digest.update(block)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with readable(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def shard_header(path: Path) -> bytes:
    """The first bytes of a shard, up to its first tensor."""
    with readable(path), path.open("rb") as stream:
        length = stream.read(8)
        return length + stream.read(min(int.from_bytes(length, "little"), LARGEST_HEADER))


def same_files(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    return one.stat().st_size == other.stat().st_size and file_digest(one) == file_digest(other)


def row_name(shape: Sequence[int], row: int) -> str:
    """A row of a tensor, for people; of a stack, with the number of the matrix before it."""
    if len(shape) < 3:
        return f"row {row}"
    place: list[int] = []
    for size in reversed(shape[:-1]):
        row, index = divmod(row, size)
        place.insert(0, index)
    return f"row {place}"
