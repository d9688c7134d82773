"""What others do to a file while we read it."""

from __future__ import annotations

import os
from pathlib import Path


def grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b" ")


def touch(path: Path) -> None:
    """Another time, nothing else; a thousandth of a second later."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def put_another_there(path: Path) -> None:
    """As downloads do it: whoever has the old file open goes on reading it."""
    new = path.with_name("new")
    new.write_bytes(path.read_bytes()[:-1] + b"\x01")
    new.replace(path)


def fill_with_nan(path: Path) -> None:
    """What is read from there on looks like a bad source."""
    with path.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(size // 20)
        stream.write(b"\xff" * (size - size // 20))
