"""What is read and written past the page cache, with and without a kernel that can."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from g4convert.convert import uncached
from g4convert.convert.uncached import PAGE, pread_uncached, pwrite_uncached
from g4convert.loaders.checkpoint import pread_exactly
from g4convert.schemas.errors import ShardError

CONTENT = bytes(range(256)) * 300


@pytest.fixture
def descriptor(tmp_path: Path) -> Any:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    opened = os.open(path, os.O_RDWR)
    yield opened
    os.close(opened)


def refuse(monkeypatch: pytest.MonkeyPatch, code: int) -> list[int]:
    """Let the kernel know no flags; what is asked of it is noted."""
    asked = []

    def refused(_: int, __: object, ___: int, flags: int = 0) -> int:
        asked.append(flags)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "preadv", refused, raising=False)
    monkeypatch.setattr(os, "pwritev", refused, raising=False)
    return asked


@pytest.mark.parametrize(("count", "offset"), [(1, 0), (70_000, 7), (256, len(CONTENT) - 256)])
def test_the_same_bytes_as_pread(descriptor: int, count: int, offset: int) -> None:
    assert bytes(pread_uncached(descriptor, count, offset)) == CONTENT[offset : offset + count]


def test_the_end_of_the_file_comes_early(descriptor: int) -> None:
    assert bytes(pread_uncached(descriptor, 100, len(CONTENT) - 10)) == CONTENT[-10:]
    assert bytes(pread_uncached(descriptor, 100, len(CONTENT))) == b""
    with pytest.raises(ShardError, match="the file ends at byte"):
        pread_exactly(descriptor, 100, len(CONTENT) - 10, "file", pread_uncached)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_kernel_without_it(descriptor: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refuse(monkeypatch, code)
    assert bytes(pread_uncached(descriptor, 300, 5)) == CONTENT[5:305]
    assert asked == [uncached.RWF_DONTCACHE]


def test_a_system_without_it(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refuse(monkeypatch, errno.EIO)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert bytes(pread_uncached(descriptor, 300, 5)) == CONTENT[5:305]
    assert asked == []


def test_an_error_of_the_disk_stays_one(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EIO)
    with pytest.raises(ShardError, match="cannot be read at byte 5: Input/output error"):
        pread_exactly(descriptor, 300, 5, "file", pread_uncached)


WRITTEN = bytes(range(255, 0, -1)) * 300


def write(descriptor: int, offset: int, count: int = len(WRITTEN)) -> bytes:
    """Write into the file; what it holds afterwards."""
    data = memoryview(WRITTEN)[:count]
    while data:
        written = pwrite_uncached(descriptor, data, offset)
        assert 0 < written <= len(data)
        data, offset = data[written:], offset + written
    return os.pread(descriptor, 4 * len(CONTENT), 0)


@pytest.mark.parametrize("count", [7, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, len(WRITTEN)])
@pytest.mark.parametrize("offset", [0, 1, PAGE - 7, PAGE, 3 * PAGE + 5, len(CONTENT) - 7, len(CONTENT) + 5000])
def test_the_same_bytes_as_pwrite(descriptor: int, offset: int, count: int) -> None:
    before = CONTENT[:offset].ljust(offset, bytes(1))
    assert write(descriptor, offset, count) == before + WRITTEN[:count] + CONTENT[offset + count :]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such flag")
def test_writing_asks_the_kernel_to_forget(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pages, but not those of which others write the rest."""
    asked = []

    def pwritev(opened: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        asked.append((offset, len(buffers[0]), flags))
        return os.pwrite(opened, buffers[0], offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    write(descriptor, PAGE - 7, 2 * PAGE + 20)
    assert asked == [(PAGE, 2 * PAGE, uncached.RWF_DONTCACHE)]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_writing_on_a_kernel_without_it(descriptor: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refuse(monkeypatch, code)
    assert write(descriptor, 0).startswith(WRITTEN)
    assert asked == [uncached.RWF_DONTCACHE]


def test_writing_on_a_system_without_it(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refuse(monkeypatch, errno.EIO)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert write(descriptor, 0).startswith(WRITTEN)
    assert asked == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_in_writing_stays_one(descriptor: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, code)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        write(descriptor, 0)
