"""Commits as the client sends them: what it asks beforehand, and what it then puts in."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from .cards import judge
from .messages import HubError
from .state import LARGE, Blob, Files, Hub, Repository
from .storage import held


def mode(hub: Hub, files: Files, file: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a file is large, by its name, its size or its first bytes; and the name of what the branch has."""
    path = file["path"]
    binary = b"\0" in base64.b64decode(file["sample"])
    large = binary or file["size"] > hub.regular_size or any(fnmatch(path, pattern) for pattern in LARGE)
    held = {"oid": files[path].name} if path in files else {}
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **held}


@dataclass(frozen=True)
class Change:
    """What a commit's lines say.

    Attributes:
        title: The first line of its message.
        message: The rest.
        parent: The commit that it must come upon; None where any will do.
        files: Contents that came within the commit.
        large: Sizes and SHA-256 of those that were sent before it.
        deleted: Files that go.
        folders: Folders that go.
    """

    title: str
    message: str
    parent: str | None
    files: Mapping[str, bytes] = field(repr=False)
    large: Mapping[str, tuple[str, int | None]]
    deleted: tuple[str, ...]
    folders: tuple[str, ...]

    @classmethod
    def of(cls, lines: list[Any]) -> Change:
        """Read the lines, of which the first is the header."""
        header = lines[0]["value"]
        return cls(
            header["summary"],
            header["description"],
            header.get("parentCommit"),
            {value["path"]: base64.b64decode(value["content"]) for value in _values(lines, "file")},
            {value["path"]: (value["oid"], value.get("size")) for value in _values(lines, "lfsFile")},
            tuple(value["path"] for value in _values(lines, "deletedFile")),
            tuple(value["path"] for value in _values(lines, "deletedFolder")),
        )


def _values(lines: list[Any], key: str) -> list[Any]:
    return [line["value"] for line in lines if line["key"] == key]


def apply(hub: Hub, repository: Repository, revision: str, change: Change) -> dict[str, Blob]:
    """The files after the change; refuses what does not fit the revision, and does what the faults ask for."""
    start = repository.find(revision)
    if start is None or (change.parent and not start.oid.startswith(change.parent)):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = _without(dict(start.files), change)
    _check_card(change)
    for path, blob in _added(hub, change).items():
        if not hub.faults.loses(path):
            files[path] = _stored(hub, path, blob)
    return files


def _without(files: dict[str, Blob], change: Change) -> dict[str, Blob]:
    for path in change.deleted:
        if path not in files:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        del files[path]
    folders = tuple(folder.rstrip("/") + "/" for folder in change.folders)
    return {path: blob for path, blob in files.items() if not path.startswith(folders)}


def _check_card(change: Change) -> None:
    errors = judge(change.files["README.md"].decode()).errors if "README.md" in change.files else ()
    if errors:
        raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")


def _added(hub: Hub, change: Change) -> dict[str, Blob]:
    added = {path: Blob(data) for path, data in change.files.items()}
    for path, (sha256, size) in change.large.items():
        data = held(hub, sha256)
        if data is None or size not in (None, len(data)):
            raise HubError(400, "Your push was rejected because an LFS pointer pointed to a file that does not exist.")
        added[path] = Blob(data, large=True)
    return added


def _stored(hub: Hub, path: str, blob: Blob) -> Blob:
    if not hub.faults.corrupts(path):
        return blob
    corrupted = blob.corrupted()
    if blob.large:
        hub.objects.pop(blob.sha256, None)
        hub.objects[corrupted.sha256] = corrupted.content
    return corrupted
