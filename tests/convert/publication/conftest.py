"""A Hub on loopback, a token, a shell, and a conversion of one's own in several files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert.verification.outcome import Verification
from g4convert.convert.verification.run import verify
from g4convert.tests.convert.publication.shop import SHARD, TOKEN, Shell, sha256
from g4convert.tests.hub.client import isolate
from g4convert.tests.hub.server import serving
from g4convert.tests.hub.state import Account, Hub

Convert = Callable[..., Path]

# What a publication writes, and a verification does not look at.
WRITTEN = ("README.md", "verification.svg")


@pytest.fixture
def hub() -> Hub:
    hub = Hub()
    hub.accounts[TOKEN] = Account("alice", "write", ("lab",))
    return hub


@pytest.fixture
def waits(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[float]]:
    """The seconds that the client would have waited between its tries."""
    with serving(hub) as url:
        waits = isolate(monkeypatch, tmp_path_factory.mktemp("user"), url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield waits


@pytest.fixture
def shell(waits: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line, logged in to the Hub."""
    return Shell(monkeypatch, capsys)


@pytest.fixture
def folder(converted: Convert, tmp_path: Path) -> Path:
    """The smallest sample at 4 bits in several files, to publish and to break."""
    return Path(shutil.copytree(converted("text", max_shard_size=SHARD), tmp_path / "gemma-4bit"))


@pytest.fixture
def eight(converted: Convert, tmp_path: Path) -> Path:
    """Another conversion of the same, in fewer files."""
    return Path(shutil.copytree(converted("text", bits=8), tmp_path / "gemma-8bit"))


@pytest.fixture(scope="session")
def verifications() -> dict[str, Verification]:
    """What was found, by what was verified."""
    return {}


@pytest.fixture(autouse=True)
def _verified_once(verifications: dict[str, Verification], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files are verified once a session; all is real but the time that it takes."""

    def remember(folder: Path, **options: Any) -> Verification:
        progress = options.pop("progress")
        files = {path.name: sha256(path) for path in folder.iterdir() if path.is_file() and path.name not in WRITTEN}
        key = repr([files, options])
        if key not in verifications:
            verifications[key] = verify(folder, progress=progress, **options)
        return replace(verifications[key], model=folder.resolve().name)

    monkeypatch.setattr("g4convert.convert.publication.run.verify", remember)
