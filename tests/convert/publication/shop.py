"""What the tests of a publication share: a shell, and ways to look at the Hub and at a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert.cli import main
from g4convert.tests.hub.state import MAIN, Hub, Repository
from g4convert.tests.support import CHECKPOINTS, only_error_line

NAME = "alice/gemma-4bit"
SOURCE = CHECKPOINTS / "text"
# Large enough for the smallest sample to come in several files.
SHARD = 90_000
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh"


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit status, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a command that failed."""
        assert self.out == ""
        return only_error_line(self.err)

    @property
    def document(self) -> Any:
        """What `--json` printed."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """Calls the command as a shell does, within this process."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Outcome:
        self.monkeypatch.setattr("sys.argv", ["g4convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = self.capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Outcome(caught.value.code, out, err)

    def publish(self, folder: Path, *arguments: object, name: str = NAME) -> Outcome:
        """Publish a folder."""
        return self("publish", folder, name, *arguments)

    def published(self, folder: Path, *arguments: object, name: str = NAME) -> Outcome:
        """The same, and it goes well."""
        outcome = self.publish(folder, *arguments, name=name)
        assert (outcome.code, outcome.err) == (0, ""), outcome
        return outcome


def names(folder: Path) -> list[str]:
    """The files of a folder."""
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder, and what they hold."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def shards(folder: Path) -> list[Path]:
    """The large files of a folder."""
    return sorted(folder.glob("*.safetensors"))


def sha256(path: Path) -> str:
    """In hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def held(hub: Hub, name: str = NAME, branch: str = MAIN) -> dict[str, bytes]:
    """What a branch on the Hub holds, but for what every new repository has."""
    files = hub.repositories[name].branches[branch].files
    return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}


def titles(repository: Repository, branch: str = MAIN) -> Sequence[str]:
    """The commits of a branch, newest first."""
    return [commit.title for commit in repository.branches[branch].history()]


def changed(hub: Hub) -> list[str]:
    """What was asked of the Hub that could have changed it."""
    harmless = ("/validate-yaml", "/preupload/", "/verify", "/batch")
    return [one.path for one in hub.requests if one.method != "GET" and not any(path in one.path for path in harmless)]


def flip(path: Path, place: int = -1) -> None:
    """Change a byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
