"""The documents that the schema tests start from: published files, and what transformers 5.23 saves."""

import copy
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DOCUMENTS = Path(__file__).with_name("documents")


@pytest.fixture
def document() -> Callable[[str], Any]:
    """Read a document by its path below `documents/`, afresh on every call."""
    return lambda name: copy.deepcopy(_read(DOCUMENTS / name))


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
