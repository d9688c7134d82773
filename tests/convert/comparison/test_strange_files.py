"""Whatever stands in a small file, there is a comparison or an error of ours, and no difference is missed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert import diff
from g4convert.convert.comparison import run
from g4convert.convert.comparison.tensors import TensorDifferences
from g4convert.schemas.errors import ConfigError, G4ConvertError
from g4convert.tests.convert.verification.mutations import json_set
from g4convert.tests.convert.verification.workshop import Piece
from g4convert.tests.support import CHECKPOINTS, read_json

STRANGE: tuple[Any, ...] = (None, -1.5, "", ["x", [1], {"x": 1}, None], {"x": [1], "content": 1})
PLACES = {
    "config.json": ((), ("text_config",), ("vision_config",)),
    "processor_config.json": ((), ("feature_extractor",)),
    "tokenizer_config.json": ((),),
    "generation_config.json": ((),),
    "tokenizer.json": ((), ("model",)),
}


@pytest.fixture(autouse=True)
def small_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "tensor_differences", lambda *_: TensorDifferences((), 0, repacked=False))


def keys(file: str) -> Iterator[tuple[str, ...]]:
    """Every key that is replaced, and one that is not there."""
    document = read_json(CHECKPOINTS / "e2b" / file)
    for place in PLACES[file]:
        inner = document
        for key in place:
            inner = inner[key]
        yield from ((*place, key) for key in (*inner, "additional_special_tokens"))


@pytest.mark.parametrize("file", PLACES)
def test_strange_values(file: str, tmp_path: Path) -> None:
    """Of the values each key gets one, in turn; every kind of value comes to every kind of key often enough."""
    original = CHECKPOINTS / "e2b"
    compared = 0
    for turn, path in enumerate(keys(file)):
        piece = Piece(original, tmp_path / str(turn))
        json_set(file, *path, to=STRANGE[turn % len(STRANGE)])(piece)
        try:
            found = diff(original, piece.folder)
        except G4ConvertError:
            continue
        compared += 1
        changed = read_json(original / file) != read_json(piece.folder / file)
        assert found.equal is not changed, path
    assert compared > turn / 2


@pytest.mark.parametrize("file", PLACES)
def test_a_file_that_is_nested_too_deep(file: str, tmp_path: Path) -> None:
    piece = Piece(CHECKPOINTS / "e2b", tmp_path / "piece")
    nested: Any = 0
    for _ in range(300):
        nested = [nested]
    json_set(file, "nested", to=nested)(piece)

    with pytest.raises(ConfigError, match="nested deeper than 50 levels"):
        diff(CHECKPOINTS / "e2b", piece.folder)
