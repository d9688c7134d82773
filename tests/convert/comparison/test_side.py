"""What is compared and what is refused, and where a checkpoint may come from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from g4convert.convert import diff
from g4convert.schemas.errors import (
    ConfigError,
    G4ConvertError,
    HeaderError,
    QuantizedSourceError,
    ShardError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedModelError,
    UsageError,
)
from g4convert.tests.convert.test_source import COMMIT, FakeHub
from g4convert.tests.convert.verification.mutations import (
    Change,
    added,
    both,
    config_set,
    edited_bytes,
    json_lost,
    lost,
    packing_said,
)
from g4convert.tests.convert.verification.workshop import Piece
from g4convert.tests.support import CHECKPOINTS, WEIGHTS

TEXT = CHECKPOINTS / "text"
AWQ = {"quant_method": "awq"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    return FakeHub.installed(tmp_path / "hub", "text", monkeypatch)


def led_out(piece: Piece) -> None:
    (piece.folder / "generation_config.json").unlink()
    (piece.folder / "generation_config.json").symlink_to("/etc/hostname")


REFUSED: dict[str, tuple[Change, type[G4ConvertError], str]] = {
    "no config": (lost("config.json"), ConfigError, "the file is missing"),
    "a config that is no JSON": (edited_bytes("config.json", lambda _: b"{"), ConfigError, "not valid JSON"),
    "a config that is a list": (edited_bytes("config.json", lambda _: b"[]"), ConfigError, "not an object"),
    "another architecture": (config_set("model_type", to="llama"), UnsupportedModelError, "llama"),
    "a format that is not decoded": (config_set("quantization_config", to=AWQ), QuantizedSourceError, "awq"),
    "no weights": (lost(WEIGHTS), ShardError, "neither"),
    "a truncated shard": (edited_bytes(WEIGHTS, lambda data: data[:-1]), ShardError, "truncated"),
    "a broken header": (edited_bytes(WEIGHTS, lambda data: data[:8] + b"!" + data[9:]), HeaderError, "not valid JSON"),
    "a tokenizer that is no JSON": (edited_bytes("tokenizer.json", lambda _: b"?"), ConfigError, "not valid JSON"),
    "a link out of the folder": (led_out, UnsafeFileError, "leads out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_an_error(name: str, tmp_path: Path) -> None:
    change, error, what = REFUSED[name]
    piece = Piece(TEXT, tmp_path / "piece")
    change(piece)

    for pair in ((TEXT, piece.folder), (piece.folder, TEXT)):
        with pytest.raises(error, match=re.escape(what)):
            diff(*pair)


def test_a_quantization_block_that_means_nothing(converted: Callable[..., Path], tmp_path: Path) -> None:
    piece = Piece(converted("text"), tmp_path / "piece")
    packing_said("model.layers.0.mlp.up_proj", {"bits": 7, "group_size": 64})(piece)

    with pytest.raises(ConfigError, match=r"quantization.*found 7, allowed is 2, 3, 4, 5, 6 or 8"):
        diff(converted("text"), piece.folder)


def test_two_configs_that_are_refused_leave_nothing_to_compare_by(tmp_path: Path) -> None:
    piece = Piece(TEXT, tmp_path / "piece")
    json_lost("config.json", "sliding_window")(piece)

    with pytest.raises(ConfigError, match=r"piece: \$: found no key 'sliding_window'"):
        diff(piece.folder, piece.folder)


def test_what_to_do_about_a_format_that_is_not_decoded(tmp_path: Path) -> None:
    piece = Piece(TEXT, tmp_path / "piece")
    config_set("quantization_config", to=AWQ)(piece)

    with pytest.raises(QuantizedSourceError, match="give the unquantized checkpoint it was made from"):
        diff(TEXT, piece.folder)


def test_neither_a_folder_nor_a_name() -> None:
    with pytest.raises(SourceNotFoundError, match="there is no such folder"):
        diff(TEXT, "no such folder")
    with pytest.raises(UsageError, match="is a file"):
        diff(TEXT, TEXT / "config.json")


def test_a_repository_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    """What is not downloaded from it is not missed in it."""
    piece = Piece(TEXT, tmp_path / "piece")
    both(added("modeling.py", b"import os"), added("LICENSE", b"Apache"))(piece)

    found = diff("google/gemma-4-test@v2", piece.folder)

    assert hub.revisions == ["v2"]
    assert found.a.name == f"google/gemma-4-test@{COMMIT}"
    assert [one.part for one in found.differences] == ["LICENSE"]


def test_a_wrong_model_is_refused_before_its_weights_are_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    hub.remote = Path(shutil.copytree(hub.remote, tmp_path / "remote"))
    (hub.remote / "config.json").write_text('{"model_type": "llama"}')

    with pytest.raises(UnsupportedModelError, match="llama"):
        diff(TEXT, "google/gemma-4-test")

    assert WEIGHTS not in hub.asked


def test_the_sides_are_summed_up(converted: Callable[..., Path]) -> None:
    found = diff(TEXT, converted("text"))

    assert (found.a.name, found.a.model_type, found.a.tensors) == ("text", "gemma4_text", 98)
    assert found.b.tensors == 198
    assert found.a.nbytes == 1_356_556
    assert found.peak_memory > 1_000_000
