"""Whether the source is still what it was when it was planned with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..schemas.errors import G4ConvertError, ShardError


@dataclass(frozen=True)
class Stamp:
    """What tells one state of a file from another: its size in bytes, and when it was last written, in ns."""

    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file as it is now.

        Raises:
            ShardError: the file is gone.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise ShardError(f"cannot be read: {error.strerror}", where=path.name) from None
        return cls(status.st_size, status.st_mtime_ns)


Stamps = Mapping[Path, Stamp]
NO_FILE = Stamp(-1, -1)
"""The stamp of what was not there."""


def take_stamps(paths: Iterable[Path]) -> Stamps:
    """The stamps of several files."""
    return {path: Stamp.of(path) for path in paths}


def check_stamps(stamps: Stamps) -> None:
    """Refuse a source that changed.

    Raises:
        ShardError: a file has another size or time, or is gone.
    """
    for path, stamp in stamps.items():
        if Stamp.of(path) != stamp:
            raise ShardError(
                "the file was changed while it was read", where=path.name, fix="convert again when nobody writes to it"
            )


@contextmanager
def unchanged(stamps: Stamps) -> Iterator[None]:
    """Refuse a source that changed before or during the work; it explains whatever else went wrong meanwhile.

    Raises:
        ShardError: a file has another size or time, or is gone.
    """
    check_stamps(stamps)
    try:
        yield
    except G4ConvertError:
        check_stamps(stamps)
        raise
    check_stamps(stamps)
