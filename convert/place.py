"""The place of the output: whether it is free, who writes there, and how a finished folder takes it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from ..loaders.checkpoint import CONFIG_FILE
from ..schemas.errors import OutputError
from .disk import disk_errors, sync_folder
from .source import PLOT, SIDECARS

# linux/fs.h and sys/stdio.h: change places, instead of taking one.
RENAME_EXCHANGE = RENAME_SWAP = 2
AT_FDCWD = -100


def absolute(path: Path) -> Path:
    """The path from the root, without `.` and `..`; links stay links."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow links


def work_path(output: Path) -> Path:
    """Where an output is made before it takes its place."""
    return output.with_name(f".{output.name}.g4convert-unfinished")


def replaced_path(output: Path) -> Path:
    """Where the checkpoint waits that an output replaces."""
    return output.with_name(f".{output.name}.g4convert-replaced")


def lock_path(output: Path) -> Path:
    """What whoever makes an output keeps locked."""
    return output.with_name(f".{output.name}.g4convert-lock")


@contextmanager
def parents_of(path: Path) -> Iterator[None]:
    """Make the folders above; those that had to be made go again if nothing stands in them at the end."""
    with disk_errors(path):
        made = [parent for parent in path.parents if not parent.exists()]
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for parent in made:
            with suppress(OSError):  # of a folder that is not empty
                parent.rmdir()


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep others from making the same output.

    The lock is a file beside the output: what lies in the work folder moves away at the end, and is free then.

    Raises:
        OutputError: another conversion holds it.
    """
    path = lock_path(output)
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        with disk_errors(path):
            _lock(descriptor, path, output)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, output: Path) -> None:
    """Whoever held the lock removes the file at the end; a lock on a file without a name keeps nobody away."""
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return
    raise OutputError("another conversion is writing there", where=output, fix="wait for it")


def check_output(output: Path, source: Path, needed: int, *, overwrite: bool) -> None:
    """Refuse an output path before anything is written.

    Raises:
        OutputError: it exists, it or what it needs beside it overlaps the source, or the disk is too small.
    """
    place = absolute(output)
    with disk_errors(output):
        origin = _resolve(source)
        for path in (place, work_path(place), replaced_path(place)):
            _check_apart(_resolve(path), origin, output)
        _check_free(place, output, overwrite=overwrite)
        free = shutil.disk_usage(_existing_parent(place)).free + _reclaimable(place)
    if free < needed:
        what = f"{needed:,} bytes are needed and {free:,} are free on the disk"
        raise OutputError(what, where=output, fix="make room")


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:  # Python 3.11 and 3.12 say so of links in a circle
        raise OutputError("its links lead in a circle", where=path) from None


def _check_apart(path: Path, origin: Path, output: Path) -> None:
    if path == origin or origin in path.parents or path in origin.parents:
        raise OutputError("the output and the source overlap", where=output, fix="choose another folder")


def _check_free(place: Path, output: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(place):
        return
    if not overwrite:
        raise OutputError("the output exists", where=output, fix="choose another folder, or say --overwrite")
    if not is_checkpoint(place):
        raise OutputError("--overwrite replaces a checkpoint, and this is none", where=output, fix="remove it yourself")


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds the files of a checkpoint and nothing else, so that nobody misses them."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir() if path.is_file()]
    weights = [name for name in names if name.endswith(".safetensors")]
    patterns = (*SIDECARS, "*.safetensors", PLOT)
    known = all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names)
    return CONFIG_FILE in names and bool(weights) and known and len(names) == len(list(folder.iterdir()))


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())


def _reclaimable(place: Path) -> int:
    """Bytes that a run which was stopped left beside the output: what the next one does not use it removes."""
    left = [work_path(place), *([replaced_path(place)] if place.exists() else [])]
    return sum(512 * path.lstat().st_blocks for folder in left for path in folder.rglob("*"))


def remove_replaced(output: Path) -> None:
    """Remove the checkpoint whose place another one has taken."""
    replaced = replaced_path(output)
    if os.path.lexists(output) and replaced.exists():
        shutil.rmtree(replaced)


def take_place(path: Path, output: Path, *, overwrite: bool) -> None:
    """Put a finished folder in its place as a whole; what stands there is removed.

    At any moment the old folder or the new one stands there. Where the disk cannot exchange two folders there is a
    moment when neither does; the next run removes what a kill then leaves beside the output.

    Raises:
        OutputError: something has come to stand there meanwhile.
    """
    replaced = replaced_path(output)
    _check_free(output, output, overwrite=overwrite)
    if output.exists():
        remove_replaced(output)
        path.rename(replaced)
        if not exchange(replaced, output):
            replaced.rename(path)
            output.rename(replaced)
            path.rename(output)
    else:
        path.rename(output)
    sync_folder(output.parent)
    remove_replaced(output)


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, which Python's `os` does not offer.

    Returns:
        False where the system or the disk has no such step; nothing has happened then.
    """
    libc = ctypes.CDLL(None)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):  # Linux
        return int(libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)) == 0
    if hasattr(libc, "renamex_np"):  # macOS
        return int(libc.renamex_np(*names, RENAME_SWAP)) == 0
    return False
