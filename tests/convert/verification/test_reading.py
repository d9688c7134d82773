"""Files that cannot be read are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from g4convert.convert.verification.reading import file_digest, open_shards, same_files, shard_header
from g4convert.schemas.errors import CheckpointError


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for read in (file_digest, shard_header):
        with pytest.raises(CheckpointError, match=f"{tmp_path.name}: cannot be read: Is a directory"):
            read(tmp_path)


def test_a_shard_that_is_gone(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read: No such file"),
        open_shards([tmp_path / "model.safetensors"]),
    ):
        pass


def test_files_are_compared_by_their_bytes(tmp_path: Path) -> None:
    for name, text in {"one": "ab", "two": "ab", "three": "ac", "four": "abc"}.items():
        (tmp_path / name).write_text(text)

    same = [same_files(tmp_path / "one", tmp_path / other) for other in ("two", "three", "four")]

    assert same == [True, False, False]
