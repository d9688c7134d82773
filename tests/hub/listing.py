"""What the Hub tells of its repositories: listings, and descriptions of files, models and pull requests."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from .messages import Answer, Request, reply
from .state import DATE, EPOCH, MAIN, Blob, Commit, Hub, Pull, Repository, tree_id

EXPANDED_PAGE = 50
SAFE = {"status": "safe", "avScan": None, "pickleImportScan": None}


def info(repository: Repository, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    """A model at a commit; with `blobs` the files' sizes and names in Git and in the object storage."""
    siblings = [{"rfilename": path, **(_sibling(blob) if blobs else {})} for path, blob in sorted(commit.files.items())]
    return {
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.partition("/")[0],
        "sha": commit.oid,
        "createdAt": EPOCH.strftime(DATE),
        "lastModified": commit.when,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    }


def _sibling(blob: Blob) -> dict[str, Any]:
    large = {"lfs": {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}} if blob.large else {}
    return {"blobId": blob.git_id, "size": blob.size, **large}


def entries(commit: Commit, folder: str, *, recursive: bool, expand: bool) -> list[dict[str, Any]]:
    """What a folder holds, and if asked what its folders hold."""
    start = f"{folder}/" if folder else ""
    below = [path for path in sorted(commit.files) if path.startswith(start)]
    folders = {path[:slash] for path in below for slash in _slashes(path, len(start))}
    found = sorted([*below, *folders])
    return [_entry(commit, path, expand=expand) for path in found if recursive or "/" not in path.removeprefix(start)]


def _slashes(path: str, start: int) -> list[int]:
    return [place for place in range(start, len(path)) if path[place] == "/"]


def paths(commit: Commit, wanted: list[str], *, expand: bool) -> list[dict[str, Any]]:
    """The files and folders of these names; names of nothing are left out."""
    return [_entry(commit, path, expand=expand) for path in wanted if commit.part(path)]


def _entry(commit: Commit, path: str, *, expand: bool) -> dict[str, Any]:
    blob = commit.files.get(path)
    entry: dict[str, Any] = {"type": "directory", "oid": tree_id(commit.files, f"{path}/"), "size": 0, "path": path}
    if blob:
        entry = {"type": "file", "oid": blob.git_id, "size": blob.size, "path": path}
    if blob and blob.large:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    if expand:
        last = commit.last_change(path)
        entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.when}
        entry["securityFileStatus"] = SAFE
    return entry


def page(hub: Hub, request: Request, rows: list[dict[str, Any]]) -> Answer:
    """The rows from the request's cursor on, as many as a page holds, and a link to the next page."""
    size = min(hub.page_size, EXPANDED_PAGE) if request.asks("expand") else hub.page_size
    start = int(request.options.get("cursor", "0"))
    query = urlencode({**request.options, "cursor": start + size})
    more = {"Link": f'<{hub.url}{request.path}?{query}>; rel="next"'} if len(rows) > start + size else {}
    return reply(rows[start : start + size], headers=more)


def details(repository: Repository, pull: Pull) -> dict[str, Any]:
    """A pull request."""
    return {
        "num": pull.number,
        "title": pull.title,
        "author": {"name": pull.author},
        "createdAt": EPOCH.strftime(DATE),
        "status": "draft",
        "isPullRequest": True,
        "repo": {"type": "model", "name": repository.name},
        "events": [],
        "changes": {"base": f"refs/heads/{MAIN}"},
        "filesWithConflicts": [],
    }
