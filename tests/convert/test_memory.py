"""The bound on resident memory."""

from __future__ import annotations

import pytest
from g4convert.convert import memory
from g4convert.schemas.errors import UsageError


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_chunks_get_what_the_imports_leave(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_resident", lambda: 100_000_000)

    chunk = memory.chunk_bytes(400_000_000, workers)

    in_flight = workers * memory.BYTES_IN_WORK + memory.WAITING * memory.BYTES_DONE
    assert memory.SMALLEST_CHUNK <= chunk <= memory.LARGEST_CHUNK
    assert 100_000_000 + memory.RESERVE + chunk * in_flight <= 400_000_000


def test_a_bound_below_the_imports_is_refused_with_the_least_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_resident", lambda: 100_000_000)

    with pytest.raises(UsageError, match=r"--max-memory: 150,000,000 bytes .* give at least (\d+)MB") as caught:
        memory.chunk_bytes(150_000_000, 2)

    least = int(str(caught.value).split("at least ")[1].removesuffix("MB"))
    assert memory.chunk_bytes(least * 1_000_000, 2) >= memory.SMALLEST_CHUNK


def test_no_bound_is_the_largest_useful_chunk() -> None:
    assert memory.chunk_bytes(None, 4) == memory.LARGEST_CHUNK


def test_the_peak_is_in_bytes() -> None:
    block = bytearray(64 << 20)
    assert len(block) < memory.peak_resident() < 1 << 40
