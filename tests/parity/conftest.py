"""Keeps torch out of a run that leaves the parity tests out."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the test files of this folder alone where the call says `-m "not parity"`."""
    if "not parity" in config.getoption("markexpr") and collection_path.name.startswith("test_"):
        return True
    return None
