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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..schemas.errors import OutputError
from .plan import Shard

JOURNAL = "journal.jsonl"
Digests = dict[str, str]


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
        self.output = Path(os.path.abspath(output))  # noqa: PTH100  # resolve() would follow links
        self.path = self.output.with_name(f".{self.output.name}.g4convert-unfinished")
        self.key = key
        self.done: dict[str, Digests] = {}

    def __enter__(self) -> Self:
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._journal = os.open(self.path / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock()
        self._resume()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Interrupted work stays for the next run; work that failed would fail again, so it goes."""
        os.close(self._journal)
        if kind is not None and issubclass(kind, Exception):
            shutil.rmtree(self.path, ignore_errors=True)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._journal)
            raise OutputError("another conversion is writing there", where=self.output, fix="wait for it") from None

    def _resume(self) -> None:
        """Read the journal; a torn last line is what a kill leaves, and is ignored."""
        entries = []
        for line in (self.path / JOURNAL).read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                entries.append(json.loads(line))
        if entries and entries[0] == {"key": self.key}:
            self.done = {entry["shard"]: entry["tensors"] for entry in entries[1:]}
            return
        for path in self.path.iterdir():
            if path.name != JOURNAL:
                path.unlink()
        os.ftruncate(self._journal, 0)
        self._log({"key": self.key})

    def _log(self, entry: Mapping[str, Any]) -> None:
        os.write(self._journal, json.dumps(entry).encode() + b"\n")
        os.fsync(self._journal)

    def shard_done(self, shard: Shard, digests: Digests) -> None:
        """Note a shard that is whole and synced."""
        with disk_errors(self.path):
            self._log({"shard": shard.file, "tensors": digests})
        self.done[shard.file] = digests

    def write_file(self, name: str, data: bytes) -> None:
        """Write and sync a small file."""
        with disk_errors(self.path / name), (self.path / name).open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self, *, overwrite: bool) -> None:
        """Put the folder in its place, all at once; what stood there steps aside first."""
        replaced = self.path.with_name(f"{self.path.name}-replaced")
        with disk_errors(self.output):
            (self.path / JOURNAL).unlink()
            _sync_folder(self.path)
            if overwrite and self.output.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                self.output.rename(replaced)
            self.path.rename(self.output)
            _sync_folder(self.output.parent)
        shutil.rmtree(replaced, ignore_errors=True)


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
        with disk_errors(self.path):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            os.ftruncate(self._file, self.shard.nbytes)
            self._write(memoryview(self.shard.header), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def put(self, name: str, offset: int, data: memoryview) -> None:
        """Write the next bytes of a tensor, `offset` from its start."""
        tensor = self._tensors[name]
        tensor.digest.update(data)
        with disk_errors(self.path):
            self._write(data, tensor.offset + offset)

    def _write(self, data: memoryview, offset: int) -> None:
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written

    def sync(self) -> Digests:
        """Force the shard to disk; the SHA-256 of every tensor's bytes."""
        with disk_errors(self.path):
            os.fsync(self._file)
        return {name: tensor.digest.hexdigest() for name, tensor in self._tensors.items()}


def check_output(output: Path, source: Path, needed: int, *, overwrite: bool) -> None:
    """Refuse an output path before anything is written.

    Raises:
        OutputError: it exists, it is the source or lies in it, or the disk is too small.
    """
    real, origin = output.resolve(), source.resolve()
    if real == origin or origin in real.parents or real in origin.parents:
        raise OutputError("the output and the source overlap", where=output, fix="choose another folder")
    if output.exists() or output.is_symlink():
        _check_replaceable(output, overwrite)
    free = shutil.disk_usage(_existing_parent(output)).free
    if free < needed:
        raise OutputError(
            f"{needed:,} bytes are needed and {free:,} are free on the disk", where=output, fix="make room"
        )


def _check_replaceable(output: Path, overwrite: bool) -> None:
    if not overwrite:
        raise OutputError("the output exists", where=output, fix="choose another folder, or say --overwrite")
    is_checkpoint = output.is_dir() and not output.is_symlink() and (output / "config.json").exists()
    if not is_checkpoint:
        raise OutputError("--overwrite replaces a checkpoint, and this is none", where=output, fix="remove it yourself")


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())
