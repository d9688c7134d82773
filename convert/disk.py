"""Small files, written whole or not at all, and what the operating system says about the output, as one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..schemas.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what the operating system says about the output into one line for the user."""
    try:
        yield
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        fix = "make room" if error.errno in FULL else None
        raise OutputError(what, where=error.filename or where, fix=fix) from None


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file where another one may stand: either of them is there, whole, at any moment.

    Raises:
        OutputError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.g4convert-unfinished")
    with disk_errors(path):
        try:
            write_synced(new, data)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a small file, and wait until the disk has it."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
