"""Checkpoints to break, in a place that does not outlive the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from g4convert.tests.conftest import Convert

from .breaks import INDEX

Plain = Callable[[str, Path], Path]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, gone after the test: a thousand damaged checkpoints would fill a disk."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def plain(converted: Convert) -> Plain:
    """`plain(kind, folder)`: a copy of a sample in MLX form, unquantized, in one file without an index."""
    return lambda kind, to: _bare(converted(kind, quantize=False), to)


@pytest.fixture
def packed(converted: Convert) -> Plain:
    """`packed(kind, folder)`: the same, quantized."""
    return lambda kind, to: _bare(converted(kind), to)


def _bare(checkpoint: Path, to: Path) -> Path:
    shutil.copytree(checkpoint, to)
    (to / INDEX).unlink()
    return to
