"""The output folder: streamed shards, a journal to resume by, and an atomic finish.

Work happens in a hidden folder beside the output. A shard whose journal entry is there has been synced to disk; a
folder at the output path has been renamed as a whole, so it is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..loaders.checkpoint import CONFIG_FILE
from ..schemas.errors import OutputError
from .lattice import Tally
from .manifest import MANIFEST
from .plan import Shard
from .source import PLOT, SIDECARS
from .writeback import WriteBack

JOURNAL = "journal.jsonl"
Digests = dict[str, str]


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a shard that is done: SHA-256 of its tensors, and how much of them lies on a 4-bit grid."""

    digests: Digests
    tallies: Mapping[str, Tally]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """Read what the journal holds."""
        return cls(entry["digests"], {name: Tally(**tally) for name, tally in entry["tallies"].items()})


def dump(document: Any) -> bytes:
    """JSON as every file of the output holds it: two spaces, UTF-8, a newline at the end."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what the operating system says about the output into one line for the user."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", where=error.filename or where) from None


class WorkFolder:
    """The unfinished output beside its final place, with the journal of what is done.

    Args:
        output: where the finished folder will stand.
        key: digest of everything that decides the bytes; work done under another key is thrown away.
    """

    def __init__(self, output: Path, key: str) -> None:
        self.output = absolute(output)
        self.path = work_path(self.output)
        self.key = key
        self.done: dict[str, ShardRecord] = {}
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        with disk_errors(self.path):
            self._made = [parent for parent in self.path.parents if not parent.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            _check_ours(self.path)
            self._journal = os.open(self.path / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        self._lock()
        with disk_errors(self.path):
            self._resume()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Interrupted work stays for the next run; work that failed would fail again, so it goes."""
        os.close(self._journal)
        if kind is not None and issubclass(kind, Exception):
            shutil.rmtree(self.path, ignore_errors=True)
            for parent in self._made:
                with suppress(OSError):
                    parent.rmdir()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._journal)
            raise OutputError("another conversion is writing there", where=self.output, fix="wait for it") from None

    def _resume(self) -> None:
        """Go on from the journal if it was written for the same bytes, else start anew."""
        entries = _read_journal(self.path / JOURNAL)
        if entries and entries[0] == {"key": self.key}:
            self.done = {entry.pop("shard"): ShardRecord.of(entry) for entry in entries[1:]}
            return
        self._keep({JOURNAL})
        os.ftruncate(self._journal, 0)
        self._log({"key": self.key})

    def _keep(self, names: set[str]) -> None:
        """Remove whatever else lies in the folder."""
        for path in self.path.iterdir():
            if path.name in names:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _log(self, entry: Mapping[str, Any]) -> None:
        os.write(self._journal, json.dumps(entry).encode() + b"\n")
        os.fsync(self._journal)

    def has(self, shard: Shard) -> bool:
        """Whether a shard is done and lies there whole."""
        path = self.path / shard.file
        return shard.file in self.done and path.is_file() and path.stat().st_size == shard.nbytes

    def shard_done(self, shard: Shard, record: ShardRecord) -> None:
        """Note a shard that is whole and synced."""
        with disk_errors(self.path):
            self._log({"shard": shard.file, **asdict(record)})
        self.done[shard.file] = record

    def write_file(self, name: str, data: bytes) -> None:
        """Write and sync a small file."""
        with disk_errors(self.path / name):
            write_synced(self.path / name, data)

    def copy_file(self, name: str, source: Path) -> str:
        """Copy a file block by block, and sync it; the SHA-256 of its bytes."""
        digest = hashlib.sha256()
        with disk_errors(self.path / name), source.open("rb") as original, (self.path / name).open("wb") as stream:
            while block := original.read(1 << 20):
                digest.update(block)
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        return digest.hexdigest()

    def finish(self, files: set[str], *, overwrite: bool) -> None:
        """Put the folder in its place, all at once; what stood there steps aside first.

        Args:
            files: what the folder holds; anything else goes.
            overwrite: whether a checkpoint may stand at the output.
        """
        replaced = replaced_path(self.output)
        with disk_errors(self.output):
            self._keep(files)
            _sync_folder(self.path)
            if overwrite and self.output.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                self.output.rename(replaced)
            self.path.rename(self.output)
            _sync_folder(self.output.parent)
            if replaced.exists():
                shutil.rmtree(replaced)


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


def absolute(path: Path) -> Path:
    """The path from the root, without `.` and `..`; links stay links."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow links


def work_path(output: Path) -> Path:
    """Where an output is made before it takes its place."""
    return output.with_name(f".{output.name}.g4convert-unfinished")


def replaced_path(output: Path) -> Path:
    """Where the checkpoint waits that an output replaces."""
    return output.with_name(f".{output.name}.g4convert-replaced")


def _check_ours(path: Path) -> None:
    """A folder of that name is somebody's own, unless it holds our journal or, once that is gone, our manifest."""
    ours = any((path / name).is_file() for name in (JOURNAL, MANIFEST))
    if path.is_symlink() or (any(path.iterdir()) and not ours):
        raise OutputError("it is in the way of the unfinished output", where=path, fix="move it elsewhere")


def _read_journal(path: Path) -> list[dict[str, Any]]:
    """The whole entries; a torn last line is what a kill leaves, and damage makes the journal worthless."""
    lines = path.read_bytes().splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith(b"\n")]
    except ValueError:
        return []


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Tensor:
    offset: int
    digest: Any


class ShardFile:
    """A shard under way: tensors come in pieces, in order within each tensor, at offsets known from the plan."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.path = folder / shard.file
        self.shard = shard
        self._tensors = {name: _Tensor(offset, hashlib.sha256()) for name, offset in shard.offsets.items()}

    def __enter__(self) -> Self:
        with disk_errors(self.path), ExitStack() as stack:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            stack.callback(os.close, self._file)
            self._disk = stack.enter_context(WriteBack(self._file))
            os.ftruncate(self._file, self.shard.nbytes)
            self._write(memoryview(self.shard.header), 0)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def put(self, name: str, offset: int, data: memoryview) -> None:
        """Write the next bytes of a tensor, `offset` from its start."""
        tensor = self._tensors[name]
        tensor.digest.update(data)
        with disk_errors(self.path):
            self._write(data, tensor.offset + offset)
            self._disk.wrote(len(data))

    def _write(self, data: memoryview, offset: int) -> None:
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written

    def sync(self) -> Digests:
        """Force the shard to disk; the SHA-256 of every tensor's bytes."""
        with disk_errors(self.path):
            self._disk.finish()
        return {name: tensor.digest.hexdigest() for name, tensor in self._tensors.items()}


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
        if place.exists() or place.is_symlink():
            _check_replaceable(place, output, overwrite=overwrite)
        free = shutil.disk_usage(_existing_parent(place)).free
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


def _check_replaceable(place: Path, output: Path, *, overwrite: bool) -> None:
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
