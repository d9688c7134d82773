"""The reader of indexes: whatever an index names, no file outside the checkpoint is opened."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g4convert.loaders.checkpoint import INDEX_FILE, Checkpoint
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from .effort import attempt, effort
from .nasty import TEXTS, VALUES, damaged

A, B = {"a.0": 1, "a.1": 2}, {"b": 3}
GOOD = {**dict.fromkeys(A, "a.safetensors"), **dict.fromkeys(B, "b.safetensors")}
LINKED = {**GOOD, **dict.fromkeys(A, "inside.safetensors")}


def sound(weight_map: Any) -> bool:
    """Whether a map names whole shards, each by its own name or by a link from within."""
    shards = [{key: file for key, file in good.items() if key in keys} for good in (GOOD, LINKED) for keys in (A, B)]
    return weight_map in (GOOD, LINKED, *shards)


OPENED: list[str] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None and isinstance(arguments[0], str | bytes | os.PathLike):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(_listen)


@contextmanager
def opened() -> Iterator[list[str]]:
    """The files that are opened meanwhile."""
    global OPENED  # noqa: PLW0603  # a hook cannot be taken away
    OPENED = []
    try:
        yield OPENED
    finally:
        OPENED = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two shards, between files that it must not touch."""
    home = tmp_path_factory.mktemp("fuzz")
    model = home / "model"
    (model / "inner").mkdir(parents=True)
    for place in (model, model / "inner", home):
        for name, content in {"a": A, "b": B}.items():
            tensors = {key: np.full(2, value, np.float32) for key, value in content.items()}
            (place / f"{name}.safetensors").write_bytes(save(tensors))
    (model / "folder.safetensors").mkdir()
    (model / "inside.safetensors").symlink_to("a.safetensors")
    (model / "outside.safetensors").symlink_to(home / "b.safetensors")
    (model / "above.safetensors").symlink_to("..")
    (model / "nowhere.safetensors").symlink_to("gone.safetensors")
    (model / "circle.safetensors").symlink_to("circle.safetensors")
    os.mkfifo(model / "pipe.safetensors")
    return model


NAMES = (
    "a.safetensors", "b.safetensors", "A.safetensors", "a.SAFETENSORS", "a", "inside.safetensors",
    "outside.safetensors", "above.safetensors", "nowhere.safetensors", "circle.safetensors", "pipe.safetensors",
    "folder.safetensors", "../a.safetensors", "inner/a.safetensors", "./a.safetensors", "inner/../a.safetensors",
    "a.safetensors/", "inner\\a.safetensors", "above.safetensors/b.safetensors", "a.safetensors\0",
    "\0.safetensors", "~/a.safetensors", "/etc/passwd", "\ud800.safetensors", ".safetensors", "..safetensors",
    "x" * 300 + ".safetensors", *TEXTS,
)  # fmt: skip
PLACES = ("a.safetensors", "b.safetensors", "inside.safetensors", "inner/a.safetensors", "./b.safetensors")
KEYS = (*GOOD, "A.0", "a.0 ", "a.0\0", "\ud800", *TEXTS)


def check(folder: Path, index: bytes) -> Checkpoint | None:
    """Open the checkpoint with an index; None if it is refused."""
    (folder / INDEX_FILE).write_bytes(index)
    with opened() as files:
        found = attempt(lambda: Checkpoint.open(folder))
    strangers = [file for file in files if not os.path.realpath(file).startswith(f"{os.path.realpath(folder)}/")]
    assert strangers == []
    return None if isinstance(found, str) else found


@effort(400)
@given(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(NAMES), max_size=5), st.booleans(), st.booleans())
def test_names_of_any_kind(folder: Path, changes: dict[str, str], whole: bool, ascii_only: bool) -> None:
    weight_map = {**GOOD, **changes} if whole else changes

    found = check(
        folder, json.dumps({"weight_map": weight_map}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    )

    if found is not None:
        assert {name: info.file.name for name, info in found.tensors.items()} == weight_map
        assert sound(weight_map)


@effort(100)
@given(st.fixed_dictionaries(dict.fromkeys(GOOD, st.sampled_from(PLACES))))
def test_every_tensor_in_some_place(folder: Path, weight_map: dict[str, str]) -> None:
    found = check(folder, json.dumps({"weight_map": weight_map}).encode())

    assert (found is not None) == sound(weight_map)


def test_the_index_that_is_changed_is_good(folder: Path) -> None:
    found = check(folder, json.dumps({"weight_map": GOOD}).encode())

    assert found is not None
    assert found.tensors.keys() == GOOD.keys()


@effort(200)
@given(
    VALUES
    | VALUES.map(lambda value: {"weight_map": value})
    | st.dictionaries(st.text(), VALUES).map(lambda value: {"weight_map": {**GOOD, **value}})
)
def test_documents_of_any_kind(folder: Path, document: Any) -> None:
    found = check(folder, json.dumps(document).encode())

    assert found is None or sound(document["weight_map"])


@effort(200)
@given(damaged(json.dumps({"metadata": {"total_size": 24}, "weight_map": GOOD}).encode()) | st.binary(max_size=64))
def test_any_bytes(folder: Path, index: bytes) -> None:
    found = check(folder, index)

    assert found is None or found.tensors.keys() == GOOD.keys()
