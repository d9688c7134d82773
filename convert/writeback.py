"""Bytes go to the disk while more of them are made, so that the last sync has little to wait for."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

# Often enough for the disk to be busy all the time, seldom enough for a sync to cost nothing.
PORTION = 64 << 20


class WriteBack:
    """Syncs a file under way, a portion at a time, on a thread of its own.

    A sync that fails is reported once and then forgotten by the system, so its error is kept until somebody asks.

    Args:
        descriptor: of the file; it stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unsynced = 0
        self._sync: Future[None] | None = None

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def wrote(self, count: int) -> None:
        """Take note of `count` more bytes.

        Raises:
            OSError: an earlier portion did not reach the disk.
        """
        self._unsynced += count
        if self._unsynced >= PORTION and (self._sync is None or self._sync.done()):
            self._start()

    def finish(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            OSError: it did not get there.
        """
        self._start()
        self._result()

    def _start(self) -> None:
        self._result()
        self._sync, self._unsynced = self._pool.submit(os.fsync, self._descriptor), 0

    def _result(self) -> None:
        if self._sync is not None:
            self._sync.result()
