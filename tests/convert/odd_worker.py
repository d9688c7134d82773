"""What a Dask worker of the tests loads (`--preload`) to stop in the middle of a shard, or to look old."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from g4convert.convert.writer import ShardFile

STUCK, VERSION = "G4CONVERT_TEST_STUCK", "G4CONVERT_TEST_VERSION"


def stop_in_the_middle(marker: Path) -> None:
    """Write a part of a shard, say so by a file, and never go on."""
    original = ShardFile.put

    def put(self: ShardFile, name: str, offset: int, data: memoryview) -> None:
        original(self, name, offset, data)
        marker.touch()
        time.sleep(600)

    ShardFile.put = put  # type: ignore[method-assign]


def look_old(version: str) -> None:
    """Have another g4convert, as far as Dask knows."""
    from distributed import versions

    asked: Any = versions
    original = asked.version
    asked.version = lambda name: version if name == "g4convert" else original(name)
    asked._version_cached.cache_clear()


if STUCK in os.environ:
    stop_in_the_middle(Path(os.environ[STUCK]))
if VERSION in os.environ:
    look_old(os.environ[VERSION])
