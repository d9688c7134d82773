"""The reader of configs: what it takes can be planned, and what it does not take is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert.inventory import catalogue
from g4convert.loaders.checkpoint import CONFIG_FILE, read_config
from g4convert.tests.support import CHECKPOINTS, CONFIGS, KINDS, read_json
from hypothesis import given
from hypothesis import strategies as st

from .effort import attempt, effort
from .nasty import VALUES, damaged, mutated

FILES = [CHECKPOINTS / kind / CONFIG_FILE for kind in KINDS] + sorted(CONFIGS.glob("*.json"))
DOCUMENTS = [read_json(file) for file in FILES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def check(folder: Path, content: bytes) -> bool:
    """Read a config, and list the tensors that it calls for; whether it is taken."""
    (folder / CONFIG_FILE).write_bytes(content)
    found = attempt(lambda: read_config(folder))
    if isinstance(found, str):
        return False
    for targets in catalogue(found[1]).targets.values():
        for target in targets:
            assert all(type(size) is int and size > 0 for size in target.shape), target
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=[file.parent.name + "-" + file.name for file in FILES])
def test_what_is_changed_is_good(folder: Path, document: Any) -> None:
    assert check(folder, json.dumps(document).encode())


@effort(300)
@given(st.sampled_from(DOCUMENTS).flatmap(mutated))
def test_documents_with_other_values(folder: Path, document: Any) -> None:
    check(folder, json.dumps(document).encode())


@effort(100)
@given(damaged(json.dumps(DOCUMENTS[0]).encode()) | st.binary(max_size=64))
def test_any_bytes(folder: Path, content: bytes) -> None:
    check(folder, content)


@effort(50)
@given(VALUES)
def test_documents_of_any_kind(folder: Path, document: Any) -> None:
    assert not check(folder, json.dumps(document).encode())
