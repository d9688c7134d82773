"""Write a verification into a file: a page for people, or a document for programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ...schemas.errors import UsageError
from ..disk import disk_errors
from ..writer import dump
from .html import page
from .outcome import Verification

WHERE = "--report"

FORMATS: Mapping[str, Callable[[Verification], bytes]] = {
    ".html": lambda verification: page(verification).encode(),
    ".json": lambda verification: dump(verification.to_dict()),
}


def check_report(file: Path, model: Path) -> None:
    """Refuse a report that could not be written, before hours of work.

    Raises:
        UsageError: another suffix, a folder, a folder that is not there, or the checkpoint's own.
    """
    if file.suffix.lower() not in FORMATS:
        raise UsageError(f"{file.name!r} is no report", where=WHERE, fix=f"end its name with {' or '.join(FORMATS)}")
    if file.is_dir():
        raise UsageError(f"{str(file)!r} is a folder", where=WHERE, fix="give the name of a file")
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {str(file.parent)!r}", where=WHERE, fix="make it first")
    if file.parent.resolve() == model.resolve():
        raise UsageError("a checkpoint holds no reports", where=WHERE, fix="write it beside the folder")


def write_report(verification: Verification, file: Path) -> None:
    """Write a report; the file is whole, or what it was before.

    Raises:
        OutputError: it cannot be written.
    """
    data = FORMATS[file.suffix.lower()](verification)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    with disk_errors(file):
        try:
            with part.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
