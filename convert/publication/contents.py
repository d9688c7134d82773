"""What goes to the Hub, what is there, and where the two differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from ...loaders.checkpoint import CONFIG_FILE, INDEX_FILE, Checkpoint, within
from ...schemas.errors import UsageError
from ..manifest import MANIFEST
from ..source import CARD, PLOT, find_sidecars
from ..verification.reading import file_digest

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.npz")
# What a runtime would read of an older checkpoint that is being replaced.
STALE = (*WEIGHTS, "*.json", "*.jinja", "*.model")


@dataclass(frozen=True)
class LocalFile:
    """A file that goes to the Hub."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """In hex."""
        return file_digest(self.path)

    @cached_property
    def git_id(self) -> str:
        """Git's name of the content: SHA-1 of `blob`, its size, and itself."""
        data = self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it.

    Attributes:
        size: bytes; None where the Hub does not say.
        sha256: in hex, of a large file.
        git_id: Git's name, of a file that is not large.
    """

    size: int | None
    sha256: str | None
    git_id: str | None

    @classmethod
    def of(cls, sibling: Any) -> RemoteFile:
        """Read what the client found."""
        return cls(sibling.size, None if sibling.lfs is None else sibling.lfs.sha256, sibling.blob_id)

    def holds(self, local: LocalFile) -> bool:
        """Whether it is the same file."""
        if self.size not in (None, local.size):
            return False
        return self.git_id == local.git_id if self.sha256 is None else self.sha256 == local.sha256


Local = Mapping[str, LocalFile]
Remote = Mapping[str, RemoteFile]


@dataclass(frozen=True)
class Place:
    """A branch on the Hub as it was when somebody looked.

    Attributes:
        commit: the newest; None where there is no repository yet.
        files: by name.
    """

    commit: str | None = None
    files: Remote = field(default_factory=dict)


def contents(folder: Path, *, plot: bool) -> dict[str, LocalFile]:
    """The files that make up a checkpoint, by name; whatever else lies in the folder stays here.

    Raises:
        G4ConvertError: it is not whole, or a link leads out of it.
        UsageError: it is not one of ours.
    """
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=folder, fix="check the path")
    if not (folder / MANIFEST).is_file():
        raise UsageError(
            f"there is no {MANIFEST}, so nobody could say where it came from",
            where=folder,
            fix="publish what hf-to-mlx has made",
        )
    shards = [path.name for path in Checkpoint.open(folder).shards]
    own = [CONFIG_FILE, INDEX_FILE, MANIFEST, CARD, *([PLOT] if plot else [])]
    names = sorted({*shards, *own, *find_sidecars(folder)})
    return {name: LocalFile(within(folder, folder / name)) for name in names}


def differences(local: Local, remote: Remote) -> Iterator[str]:
    """Where the Hub does not hold what was sent, a line each; files of others beside ours are none of our business."""
    for name, file in local.items():
        if name not in remote:
            yield f"{name} is missing"
        elif remote[name].size not in (None, file.size):
            yield f"{name} has {remote[name].size} bytes there and {file.size} here"
        elif not remote[name].holds(file):
            yield f"{name} has other bytes there than here"
    for name in stale(local, remote):
        yield f"{name} is there and not here, and runtimes would load it"


def stale(local: Local, remote: Remote) -> Sequence[str]:
    """Files on the Hub that belong to another checkpoint; runtimes do not look into folders."""
    others = sorted(name for name in remote.keys() - local.keys() if "/" not in name)
    return [name for name in others if any(fnmatchcase(name, pattern) for pattern in STALE)]


def is_another(local: Local, remote: Remote) -> bool:
    """Whether the Hub holds a checkpoint that is not this one."""
    if MANIFEST in remote:
        return not remote[MANIFEST].holds(local[MANIFEST])
    return any(Path(name).match(pattern) for name in remote for pattern in WEIGHTS)
