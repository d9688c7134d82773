"""The unfinished output: streamed shards, a journal to resume by, and an atomic finish.

Work happens in a hidden folder beside the output. A shard whose journal entry is there has been synced to disk; a
folder at the output path has been renamed as a whole, so it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..schemas.errors import ExecutorError, OutputError, ShardError
from .disk import disk_errors, sync_folder, write_synced
from .lattice import Tally
from .manifest import MANIFEST
from .place import absolute, locked, parents_of, remove_replaced, take_place, work_path
from .plan import Shard
from .uncached import pwrite_uncached
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


class WorkFolder:
    """The unfinished output beside its final place, with the journal of what is done.

    Shards are made in `attempts`, a folder of this run alone, and come here when they are whole. So a worker that was
    given up, but still writes, can harm neither this run nor the next.

    Args:
        output: where the finished folder will stand.
        key: digest of everything that decides the bytes; work done under another key is thrown away.
    """

    def __init__(self, output: Path, key: str) -> None:
        self.output = absolute(output)
        self.path = work_path(self.output)
        self.attempts = self.path / f"attempts-{secrets.token_hex(4)}"
        self.key = key
        self.done: dict[str, ShardRecord] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(parents_of(self.path))
            stack.enter_context(locked(self.output))
            stack.enter_context(self._folder())
            self._exits = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, trace)

    @contextmanager
    def _folder(self) -> Iterator[None]:
        """Interrupted work stays for the next run; work that failed would fail again, so it goes."""
        with disk_errors(self.path):
            self.path.mkdir(exist_ok=True)
            _check_ours(self.path)
        try:
            with self._resumed():
                yield
        except ExecutorError:  # the work is as good as before
            raise
        except Exception:  # whoever is at fault, we too; an interruption is no Exception
            self._remove()
            raise

    @contextmanager
    def _resumed(self) -> Iterator[None]:
        with disk_errors(self.path):
            remove_replaced(self.output)
            self._journal = os.open(self.path / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            with disk_errors(self.path):
                self._resume()
            yield
        finally:
            os.close(self._journal)
            with suppress(OSError):
                _remove(self.attempts)

    def _remove(self) -> None:
        """The journal goes last: by it a folder is ours."""
        with suppress(OSError):
            self._keep({JOURNAL})
            (self.path / JOURNAL).unlink(missing_ok=True)
            self.path.rmdir()

    def _resume(self) -> None:
        """Go on from the journal if it was written for the same bytes, else start anew."""
        journal = self.path / JOURNAL
        entries, size = _read_journal(journal)
        resumed = entries[:1] == [{"key": self.key}]
        if resumed:
            self.done = {entry.pop("shard"): ShardRecord.of(entry) for entry in entries[1:]}
        self._keep({JOURNAL, *self.done})
        os.ftruncate(self._journal, size if resumed else 0)
        if not resumed:
            self._log({"key": self.key})
        self.attempts.mkdir()

    def _keep(self, names: Set[str]) -> None:
        """Remove whatever else lies in the folder."""
        for path in self.path.iterdir():
            if path.name not in names:
                _remove(path)

    def _log(self, entry: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(entry).encode() + b"\n")
        while line:
            line = line[os.write(self._journal, line) :]
        os.fsync(self._journal)

    def has(self, shard: Shard) -> bool:
        """Whether a shard is done and lies there whole."""
        path = self.path / shard.file
        return shard.file in self.done and path.is_file() and path.stat().st_size == shard.nbytes

    def shard_done(self, shard: Shard, record: ShardRecord) -> None:
        """Take over a shard that is whole and synced, and note it."""
        with disk_errors(self.path / shard.file):
            (self.attempts / shard.file).replace(self.path / shard.file)
            self._log({"shard": shard.file, **asdict(record)})
        self.done[shard.file] = record

    def write_file(self, name: str, data: bytes) -> None:
        """Write and sync a small file."""
        with disk_errors(self.path / name):
            write_synced(self.path / name, data)

    def copy_file(self, name: str, source: Path) -> str:
        """Copy a file block by block, and sync it; the SHA-256 of its bytes.

        Raises:
            OutputError: the disk refuses.
            ShardError: the source cannot be read.
        """
        digest = hashlib.sha256()
        with disk_errors(self.path / name), (self.path / name).open("wb") as stream:
            for block in _blocks(source):
                digest.update(block)
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        return digest.hexdigest()

    def finish(self, files: Set[str], *, overwrite: bool) -> None:
        """Put the folder in its place, all at once.

        Args:
            files: what the folder holds; anything else goes.
            overwrite: whether a checkpoint may stand at the output; it goes.
        """
        with disk_errors(self.output):
            self._keep(files)
            sync_folder(self.path)
            take_place(self.path, self.output, overwrite=overwrite)


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                yield block
    except OSError as error:
        raise ShardError(f"cannot be read: {error.strerror}", where=path.name) from None


def _remove(path: Path) -> None:
    """Remove a file or a folder, also one in which somebody still makes files: under its new name nobody finds it."""
    if path.is_dir() and not path.is_symlink():
        doomed = path.rename(path.with_name(f"removed-{secrets.token_hex(4)}"))
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def _check_ours(path: Path) -> None:
    """A folder of that name is somebody's own, unless it holds our journal or, once that is gone, our manifest."""
    ours = any((path / name).is_file() for name in (JOURNAL, MANIFEST))
    if path.is_symlink() or (any(path.iterdir()) and not ours):
        raise OutputError("it is in the way of the unfinished output", where=path, fix="move it elsewhere")


def _read_journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole entries and their size in bytes; damage makes the journal worthless, but for a torn last line."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        return [json.loads(line) for line in whole.splitlines()], len(whole)
    except ValueError:
        return [], 0


@dataclass(frozen=True)
class _Tensor:
    offset: int
    digest: Any


class ShardFile:
    """A shard under way: tensors come in pieces, at offsets known from the plan, and are digested in order.

    Until it is whole it has a name of its own: a cluster may make a shard twice, the second time while the first still
    goes on.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.path = folder / shard.file
        self._attempt = folder / f"{shard.file}.{secrets.token_hex(4)}"
        self.shard = shard
        self._tensors = {name: _Tensor(offset, hashlib.sha256()) for name, offset in shard.offsets.items()}

    def __enter__(self) -> Self:
        with disk_errors(self.path), ExitStack() as stack:
            self._file = os.open(self._attempt, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
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

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for it any more: whoever gives the work up removes the file."""
        return os.fstat(self._file).st_nlink == 0

    def put(self, name: str, offset: int, data: memoryview) -> None:
        """Write bytes of a tensor, `offset` from its start; several threads may do so side by side."""
        with disk_errors(self.path):
            self._write(data, self._tensors[name].offset + offset)

    def note(self, name: str, data: memoryview) -> None:
        """Digest the next bytes of a tensor, which have been written."""
        self._tensors[name].digest.update(data)
        with disk_errors(self.path):
            self._disk.wrote(len(data))

    def _write(self, data: memoryview, offset: int) -> None:
        while data:
            written = pwrite_uncached(self._file, data, offset)
            data, offset = data[written:], offset + written

    def sync(self) -> Digests:
        """Force the shard to disk, and give it its name; the SHA-256 of every tensor's bytes."""
        with disk_errors(self.path):
            self._disk.finish()
            self._attempt.rename(self.path)
        return {name: tensor.digest.hexdigest() for name, tensor in self._tensors.items()}
