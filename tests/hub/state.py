"""What a Hugging Face Hub holds: accounts, repositories with their commits and branches, and large objects."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from .faults import Faults

Role = Literal["write", "read", "fineGrained"]
Files = Mapping[str, "Blob"]

MAIN = "main"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
DATE = "%Y-%m-%dT%H:%M:%S.000Z"
ATTRIBUTES = ".gitattributes"
LARGE = ("*.bin", "*.gguf", "*.npz", "*.onnx", "*.pt", "*.safetensors", "*.zip")
WRITE_TOKEN, READ_TOKEN, FINE_TOKEN, STRANGER_TOKEN = "hf_write", "hf_read", "hf_fine", "hf_stranger"


def git_id(kind: str, content: bytes) -> str:
    """Git's name for an object of this kind ("blob" or "tree")."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to, and what it may do.

    Attributes:
        name: The user.
        role: What the settings page calls the token's type.
        organizations: Those that the user may write to.
        scopes: With `fineGrained`: the namespaces and repositories that the token may write to.
    """

    name: str
    role: Role = "write"
    organizations: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()

    def belongs_to(self, namespace: str) -> bool:
        """Whether the namespace is the user or one of its organizations."""
        return namespace in (self.name, *self.organizations)

    def may_write(self, repository: str) -> bool:
        """Whether the token may change or create the repository."""
        namespace = repository.partition("/")[0]
        if self.role == "fineGrained":
            return bool({namespace, repository} & set(self.scopes))
        return self.role == "write" and self.belongs_to(namespace)


@dataclass(frozen=True)
class Blob:
    """A file of a commit; when `large`, Git holds a pointer to it and the object storage its content."""

    content: bytes = field(repr=False)
    large: bool = False

    @cached_property
    def sha256(self) -> str:
        """The name of the content in the object storage."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of the content, not of the pointer."""
        return len(self.content)

    @cached_property
    def pointer(self) -> bytes:
        """What Git holds in place of a large content."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def git_id(self) -> str:
        """The name of what Git holds: the content, or the pointer to it."""
        return git_id("blob", self.pointer if self.large else self.content)

    @property
    def name(self) -> str:
        """What the Hub compares a local file with, and its ETag: SHA-256 of a large file, Git's name of another."""
        return self.sha256 if self.large else self.git_id

    def corrupted(self) -> Blob:
        """The same size, and one byte different; an empty file stays as it is."""
        if not self.content:
            return self
        middle = self.size // 2
        changed = bytes([self.content[middle] ^ 1])
        return Blob(self.content[:middle] + changed + self.content[middle + 1 :], self.large)


def tree_id(files: Files, folder: str = "") -> str:
    """Git's name of a folder of the commit; `folder` is empty or ends in a slash."""
    rows = {}
    for path, blob in files.items():
        if path.startswith(folder):
            name, slash, _ = path.removeprefix(folder).partition("/")
            mode, part = ("40000", tree_id(files, f"{folder}{name}/")) if slash else ("100644", blob.git_id)
            rows[name + slash] = f"{mode} {name}\0".encode() + bytes.fromhex(part)
    return git_id("tree", b"".join(row for _, row in sorted(rows.items())))


@dataclass(frozen=True)
class Commit:
    """A state of all files, and where it came from."""

    oid: str
    title: str
    message: str
    author: str
    date: datetime
    files: Files
    parent: Commit | None = None

    @property
    def when(self) -> str:
        """The date as the Hub writes it."""
        return self.date.strftime(DATE)

    def history(self) -> Iterator[Commit]:
        """This commit and those before it, newest first."""
        commit: Commit | None = self
        while commit:
            yield commit
            commit = commit.parent

    def last_change(self, path: str) -> Commit:
        """The commit that gave a file its content, or a folder its files."""
        last = self
        for commit in self.history():
            if commit.part(path) != self.part(path):
                break
            last = commit
        return last

    def part(self, path: str) -> dict[str, Blob]:
        """The file of this path, or all below the folder."""
        return {name: blob for name, blob in self.files.items() if name == path or name.startswith(path + "/")}


@dataclass(frozen=True)
class Pull:
    """A pull request; its commits are on the branch `refs/pr/<number>`."""

    number: int
    title: str
    description: str
    author: str

    @property
    def branch(self) -> str:
        """Where its commits go."""
        return f"refs/pr/{self.number}"


@dataclass
class Repository:
    """A model: its branches, each the newest of its commits, and its pull requests."""

    name: str
    private: bool = False
    branches: dict[str, Commit] = field(default_factory=dict)
    pulls: list[Pull] = field(default_factory=list)
    commits: dict[str, Commit] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch's name, or a commit's own name or its beginning, stands for."""
        if revision in self.branches:
            return self.branches[revision]
        named = [commit for oid, commit in self.commits.items() if len(revision) >= 7 and oid.startswith(revision)]
        return named[0] if named else None

    def add(self, branch: str, files: Files, title: str, message: str, author: str) -> Commit:
        """Put a commit on a branch."""
        parent = self.branches.get(branch)
        number = len(self.commits)
        lines = [tree_id(files), parent.oid if parent else "", branch, title, message, author, str(number)]
        oid = git_id("commit", "\n".join(lines).encode())
        commit = Commit(oid, title, message, author, EPOCH + timedelta(minutes=number), dict(files), parent)
        self.branches[branch] = self.commits[oid] = commit
        return commit

    def open_pull(self, title: str, description: str, author: str) -> Pull:
        """Open a pull request that starts from the main branch."""
        pull = Pull(len(self.pulls) + 1, title, description, author)
        self.pulls.append(pull)
        self.branches[pull.branch] = self.branches[MAIN]
        return pull

    @property
    def files(self) -> dict[str, bytes]:
        """What is on the main branch: every file's content by its path."""
        return {path: blob.content for path, blob in self.branches[MAIN].files.items()}


@dataclass(frozen=True)
class Seen:
    """A request that arrived.

    Attributes:
        place: "hub", or "storage" for the object storage, which is another origin.
        method: "GET", "PUT", ...
        path: As sent, still quoted, without the query.
        query: What followed the question mark.
        received: Bytes of the body that arrived.
        authorized: Whether it carried an `Authorization` header, right or wrong.
        status: The answer's status; 0 where the connection was dropped.
    """

    place: str
    method: str
    path: str
    query: str
    received: int
    authorized: bool
    status: int


def default_accounts() -> dict[str, Account]:
    """A user with a token of each kind, and somebody else."""
    return {
        WRITE_TOKEN: Account("alice", "write", ("lab",)),
        READ_TOKEN: Account("alice", "read", ("lab",)),
        FINE_TOKEN: Account("alice", "fineGrained", ("lab",), ("alice",)),
        STRANGER_TOKEN: Account("bob"),
    }


@dataclass
class Hub:
    """A Hub in memory, and the record of what was asked of it.

    Attributes:
        accounts: By token.
        repositories: By name, such as "alice/model".
        objects: The content of every large file received, by its SHA-256.
        parts: Pieces of large files not yet complete, by SHA-256 and part number.
        faults: What goes wrong, and when.
        requests: All that were answered or dropped, in order.
        headers: The raw headers of each of them, tokens included.
        uploaded: SHA-256 of each large file received, in order, as often as it came.
        page_size: Entries of a tree's listing that one answer holds.
        part_size: A larger object is sent in parts of this size.
        regular_size: A larger file is stored as a large one whatever its name.
        xet: The folder of the Xet storage; None where the Hub has only Git LFS.
        url: Where the Hub is served.
        storage_url: Where the large files are served.
        lock: Held while a request is answered.
    """

    accounts: dict[str, Account] = field(default_factory=default_accounts)
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict, repr=False)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict, repr=False)
    faults: Faults = field(default_factory=Faults)
    requests: list[Seen] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list, repr=False)
    uploaded: list[str] = field(default_factory=list)
    page_size: int = 1000
    part_size: int = 2**21
    regular_size: int = 10**7
    xet: Path | None = None
    url: str = ""
    storage_url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def create(self, name: str, *, private: bool = False, author: str = "system") -> Repository:
        """Create a repository with the first commit of every new one."""
        repository = self.repositories[name] = Repository(name, private)
        rules = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE)
        repository.add(MAIN, {ATTRIBUTES: Blob(rules.encode())}, "initial commit", "", author)
        return repository

    def put(self, name: str, files: Mapping[str, bytes], *, large: tuple[str, ...] = ()) -> Commit:
        """Commit files to the main branch behind the protocol's back; those of `large` go to the object storage."""
        blobs = {path: Blob(content, path in large) for path, content in files.items()}
        self.objects.update({blob.sha256: blob.content for blob in blobs.values() if blob.large})
        repository = self.repositories[name]
        return repository.add(MAIN, {**repository.branches[MAIN].files, **blobs}, "put", "", "system")

    def receive(self, sha256: str, content: bytes) -> None:
        """Keep the content of a large file that was uploaded."""
        self.objects[sha256] = content
        self.uploaded.append(sha256)

    def seen(self, method: str = "", path: str = "") -> list[Seen]:
        """The requests with this method and this in their path."""
        return [one for one in self.requests if method in ("", one.method) and path in one.path]

    @property
    def received(self) -> int:
        """Bytes of large files that arrived, those of dropped and refused requests included."""
        return sum(one.received for one in self.requests if one.place == "storage")
