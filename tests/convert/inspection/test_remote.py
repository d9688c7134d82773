"""A checkpoint on the Hub: only headers come, and they are as strictly looked at as those of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from g4convert.convert.inspection.run import inspect
from g4convert.schemas.errors import ConfigError, G4ConvertError, HeaderError, HubError, ShardError, SourceNotFoundError
from g4convert.tests.convert.encoded_sources import w4a16
from g4convert.tests.hub.client import isolate
from g4convert.tests.hub.messages import Span
from g4convert.tests.hub.server import serving
from g4convert.tests.hub.state import Hub
from g4convert.tests.support import CHECKPOINTS, WEIGHTS

Convert = Callable[..., Path]

NAME = "lab/gemma"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    hub.create(NAME)
    with serving(hub) as url:
        isolate(monkeypatch, tmp_path / "home", url)
        yield hub


def put(hub: Hub, folder: Path, **changed: bytes) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files.update({name.replace("_", "."): content for name, content in changed.items()})
    hub.put(NAME, files, large=tuple(name for name in files if name.endswith(".safetensors")))


def ranges(hub: Hub) -> list[str | None]:
    """What was asked of the weights."""
    pairs = zip(hub.requests, hub.headers, strict=True)
    return [
        {k.lower(): v for k, v in headers.items()}.get("range") for seen, headers in pairs if seen.place == "storage"
    ]


def test_what_is_on_the_hub_is_what_is_in_the_folder(hub: Hub, converted: Convert) -> None:
    folder = converted("e2b")
    put(hub, folder)
    remote, local = inspect(NAME, budget=10**9).to_dict(), inspect(folder, budget=10**9).to_dict()

    assert remote.pop("name") == f"{NAME}@{hub.repositories[NAME].branches['main'].oid}"
    assert local.pop("name") == "e2b"
    assert remote == local
    assert ranges(hub) == ["bytes=0-262143"]


def test_a_source_is_planned_from_its_headers(hub: Hub) -> None:
    put(hub, CHECKPOINTS / "26b-a4b")
    found = inspect(NAME, budget=10**9)

    assert not found.converted
    assert [part.name for part in found.planned] == ["embedding", "decoder", "experts", "vision", "projectors"]
    assert any("4-bit grid is not known" in note for note in found.notes)
    assert not any(seen.path.endswith("tokenizer.json") for seen in hub.requests)


def test_weights_that_are_stored_as_codes_are_on_a_grid(hub: Hub, tmp_path: Path) -> None:
    folder = w4a16("text", tmp_path / "packed")
    put(hub, folder)
    found = inspect(NAME)

    assert found.origin == "a source, packed: compressed-tensors pack-quantized"
    assert found.planned == inspect(folder).planned
    assert any("4-bit g32" in part.formats for part in found.planned)


def test_several_shards_and_a_long_header(hub: Hub, converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = converted("text", max_shard_size=300_000)
    put(hub, folder)
    monkeypatch.setattr("g4convert.convert.inspection.remote.FIRST_READ", 1000)

    assert inspect(NAME).parts == inspect(folder).parts
    assert len(ranges(hub)) == 2 * len(list(folder.glob("*.safetensors")))


def test_a_hub_that_knows_no_ranges_is_not_listened_to(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, CHECKPOINTS / "text")
    monkeypatch.setattr(Span, "of", classmethod(lambda *_: None))

    with pytest.raises(HubError, match=r"sends only the whole of model\.safetensors; download it"):
        inspect(NAME)


def test_a_hub_that_sends_more_than_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, CHECKPOINTS / "text")
    monkeypatch.setattr(Span, "of", classmethod(lambda _, __, size: Span(0, size)))

    with pytest.raises(HubError, match=r"sent other bytes of model\.safetensors than asked for"):
        inspect(NAME)


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        (header(b"{}")[:5], ShardError, "truncated"),
        (b"", ShardError, "truncated"),
        (header(b"{"), HeaderError, "not valid JSON"),
        (header(b"{}") + b"more", HeaderError, "4 bytes follow"),
        ((1 << 40).to_bytes(8, "little") + b"{}", HeaderError, "1,099,511,627,776 bytes"),
        (header(b'{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'), ShardError, "truncated"),
    ],
)
def test_headers_are_checked_as_in_a_folder(hub: Hub, weights: bytes, error: type[G4ConvertError], said: str) -> None:
    put(hub, CHECKPOINTS / "text")
    hub.put(NAME, {WEIGHTS: weights}, large=(WEIGHTS,))

    with pytest.raises(error, match=said):
        inspect(NAME)


def test_a_config_that_is_too_large_is_not_fetched(hub: Hub) -> None:
    put(hub, CHECKPOINTS / "text")
    hub.put(NAME, {"config.json": b" " * 1_000_001})

    with pytest.raises(ConfigError, match="1,000,001 bytes, at most 1,000,000"):
        inspect(NAME)
    assert not any(seen.path.endswith("config.json") for seen in hub.requests)


@pytest.mark.parametrize(("name", "said"), [("lab/other", "401"), (f"{NAME}@v2", "404"), ("a--b/c", "check the name")])
def test_what_is_not_there_is_one_line(hub: Hub, name: str, said: str) -> None:
    put(hub, CHECKPOINTS / "text")

    with pytest.raises(SourceNotFoundError, match=said) as caught:
        inspect(name)
    assert "\n" not in str(caught.value)


def test_a_gated_repository_says_so(hub: Hub) -> None:
    put(hub, CHECKPOINTS / "text")
    hub.faults.refuse(403, "GET|HEAD", "resolve", always=True, code="GatedRepo")

    with pytest.raises(SourceNotFoundError, match="and your access"):
        inspect(NAME)


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)

    with pytest.raises(SourceNotFoundError, match="check the name, the network, and your access"):
        inspect(NAME)
