"""What is read once, with and without a kernel that can leave the page cache alone."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert import reading
from g4convert.convert.reading import pread_once
from g4convert.loaders.checkpoint import pread_exactly
from g4convert.schemas.errors import ShardError

CONTENT = bytes(range(256)) * 300


@pytest.fixture
def descriptor(tmp_path: Path) -> Any:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


def refuse(monkeypatch: pytest.MonkeyPatch, code: int) -> list[int]:
    """Let the kernel know no flags; what is asked of it is noted."""
    asked = []

    def preadv(_: int, __: object, ___: int, flags: int = 0) -> int:
        asked.append(flags)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "preadv", preadv, raising=False)
    return asked


@pytest.mark.parametrize(("count", "offset"), [(1, 0), (70_000, 7), (256, len(CONTENT) - 256)])
def test_the_same_bytes_as_pread(descriptor: int, count: int, offset: int) -> None:
    assert bytes(pread_once(descriptor, count, offset)) == CONTENT[offset : offset + count]


def test_the_end_of_the_file_comes_early(descriptor: int) -> None:
    assert bytes(pread_once(descriptor, 100, len(CONTENT) - 10)) == CONTENT[-10:]
    assert bytes(pread_once(descriptor, 100, len(CONTENT))) == b""
    with pytest.raises(ShardError, match="the file ends at byte"):
        pread_exactly(descriptor, 100, len(CONTENT) - 10, "file", pread_once)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_kernel_without_it(descriptor: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refuse(monkeypatch, code)
    assert bytes(pread_once(descriptor, 300, 5)) == CONTENT[5:305]
    assert asked == [reading.RWF_DONTCACHE]


def test_a_system_without_it(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refuse(monkeypatch, errno.EIO)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert bytes(pread_once(descriptor, 300, 5)) == CONTENT[5:305]
    assert asked == []


def test_an_error_of_the_disk_stays_one(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EIO)
    with pytest.raises(ShardError, match="cannot be read at byte 5: Input/output error"):
        pread_exactly(descriptor, 300, 5, "file", pread_once)
