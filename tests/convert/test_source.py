"""Where a checkpoint comes from: the Hub, its cache, a folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from g4convert.convert import hf_to_mlx
from g4convert.convert.source import open_source
from g4convert.schemas.errors import (
    ConfigError,
    QuantizedSourceError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedModelError,
)
from g4convert.tests.support import CHECKPOINTS, edit_json, read_json
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Stands in for the two calls that reach the network; the snapshot has the shape of the Hub's own cache."""

    def __init__(self, cache: Path, kind: str) -> None:
        self.repo = cache / "models--google--gemma-4-test"
        self.snapshot = self.repo / "snapshots" / COMMIT
        self.remote = CHECKPOINTS / kind
        self.asked: list[str] = []
        self.revisions: list[str | None] = []

    @classmethod
    def installed(cls, cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
        """One that the client's calls lead to."""
        fake = cls(cache, kind)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda _, *a, **k: fake.model_info(*a, **k))
        monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)
        return fake

    def model_info(self, repo_id: str, revision: str | None = None) -> SimpleNamespace:
        self.revisions.append(revision)
        if repo_id != "google/gemma-4-test":
            response = httpx2.Response(404, request=httpx2.Request("GET", "http://hub"))
            raise RepositoryNotFoundError("404: Repository Not Found for " + repo_id, response=response)
        return SimpleNamespace(sha=COMMIT)

    def snapshot_download(self, repo_id: str, revision: str | None, allow_patterns: Sequence[str]) -> str:
        assert (repo_id, revision) == ("google/gemma-4-test", COMMIT)
        (self.repo / "blobs").mkdir(parents=True, exist_ok=True)
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for file in sorted(self.remote.iterdir()):
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                self.asked.append(file.name)
                shutil.copy(file, self.repo / "blobs" / file.name)
                link = self.snapshot / file.name
                link.unlink(missing_ok=True)
                link.symlink_to(Path("../../blobs") / file.name)
        return str(self.snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    return FakeHub.installed(tmp_path / "hub", "31b", monkeypatch)


@pytest.mark.parametrize(
    ("source", "option", "expected"),
    [
        ("google/gemma-4-test", None, None),
        ("google/gemma-4-test@v2", None, "v2"),
        ("google/gemma-4-test", "v3", "v3"),
    ],
)
def test_a_hub_id_is_resolved_to_a_commit(source: str, option: str | None, expected: str | None, hub: FakeHub) -> None:
    opened = open_source(source, option)

    assert hub.revisions == [expected]
    assert (opened.repo_id, opened.commit) == ("google/gemma-4-test", COMMIT)


def test_the_manifest_names_repository_and_commit(hub: FakeHub, tmp_path: Path) -> None:
    hf_to_mlx("google/gemma-4-test", tmp_path / "out")
    hf_to_mlx(hub.snapshot, tmp_path / "from cache")

    expected = {"id": "google/gemma-4-test", "commit": COMMIT}
    assert read_json(tmp_path / "out" / "conversion.json")["source"] == expected
    assert read_json(tmp_path / "from cache" / "conversion.json")["source"] == expected
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_small_files_come_first_and_code_never(hub: FakeHub, tmp_path: Path) -> None:
    remote = Path(shutil.copytree(hub.remote, tmp_path / "remote"))
    (remote / "modeling.py").write_text("import os")
    (remote / "model.gguf").write_bytes(b"x")
    hub.remote = remote

    open_source("google/gemma-4-test")

    assert hub.asked[-1] == "model.safetensors"
    assert {"modeling.py", "model.gguf"}.isdisjoint(hub.asked)


def test_a_wrong_model_is_refused_before_its_weights_are_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    hub.remote = Path(shutil.copytree(hub.remote, tmp_path / "remote"))
    edit_json(hub.remote / "config.json", lambda document: document.update(model_type="llama"))

    with pytest.raises(UnsupportedModelError, match="llama"):
        open_source("google/gemma-4-test")

    assert "model.safetensors" not in hub.asked


def test_a_packing_that_is_not_read_is_refused_before_its_weights_are_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    hub.remote = Path(shutil.copytree(hub.remote, tmp_path / "remote"))
    edit_json(hub.remote / "config.json", lambda document: document.update(quantization_config={"quant_method": "awq"}))

    with pytest.raises(QuantizedSourceError, match="awq"):
        open_source("google/gemma-4-test")

    assert "model.safetensors" not in hub.asked


def test_a_template_that_never_works_is_refused_before_the_weights_are_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    hub.remote = Path(shutil.copytree(hub.remote, tmp_path / "remote"))
    (hub.remote / "chat_template.jinja").write_text("{% if %}")

    with pytest.raises(ConfigError, match=r"chat_template\.jinja: the chat template fails"):
        open_source("google/gemma-4-test")

    assert "model.safetensors" not in hub.asked


def test_an_unknown_repository_is_one_line(hub: FakeHub) -> None:
    with pytest.raises(
        SourceNotFoundError, match=r"google/gemma-5: not a folder here, and the Hub says: 404"
    ) as caught:
        open_source("google/gemma-5")
    assert "\n" not in str(caught.value)


def test_a_gated_repository_says_so(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*_: object, **__: object) -> None:
        response = httpx2.Response(403, request=httpx2.Request("GET", "http://hub"))
        raise GatedRepoError("403 Client Error.\n\nAccess to model is restricted.", response=response)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", gated)

    with pytest.raises(SourceNotFoundError, match=r"403 Client Error; check the name, the network, and your access"):
        open_source("google/gemma-4-test")


@pytest.mark.parametrize("error", [httpx2.ConnectError("Name or service not known"), OSError("no route to host")])
def test_without_a_network_it_says_so(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)

    with pytest.raises(SourceNotFoundError, match=r"(not known|no route to host); check the name, the network"):
        open_source("google/gemma-4-test")


def test_links_out_of_the_hubs_cache_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    open_source("google/gemma-4-test")
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (hub.snapshot / "extra.json").symlink_to(secret)

    with pytest.raises(UnsafeFileError, match=r"extra\.json: the file is a link that leads out"):
        open_source(hub.snapshot)
