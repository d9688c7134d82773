"""The one thread that computes, and the requests in its hands."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

from .refusals import stopping

Event = TypeVar("Event")
Result = TypeVar("Result")

Work = Callable[[Callable[[Event], None], Callable[[], None]], None]
"""Takes two functions: one that hands an event over, and one to call now and then, which raises when it is over."""


class Left(Exception):  # noqa: N818  # nothing is wrong
    """The client is gone: nobody waits for the answer."""


class Worker:
    """A thread that does one piece of work after another, in the order in which they come.

    mlx finishes in a thread what it has begun there, and in no other, so it is left to one.

    Attributes:
        seconds: what the last piece of work took.
        closing: set when no more work is wanted.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.closing = threading.Event()
        self._thread = ThreadPoolExecutor(1, "g4convert")

    def call(self, function: Callable[[], Result]) -> Result:
        """What a function returns in that thread."""
        return self._thread.submit(function).result()

    def start(self, work: Work[Event]) -> Job[Event]:
        """Put a piece of work into the queue; inside the event loop that waits for it.

        Raises:
            RequestError: the worker is closed.
        """
        if self.closing.is_set():
            raise stopping()
        return Job(self, self._thread, work)

    def close(self) -> None:
        """End the work that is being done after its current step, begin no more, and wait."""
        self.closing.set()
        self._thread.shutdown(cancel_futures=True)


class Job(Generic[Event]):
    """A piece of work, seen from the event loop: what it says, and its end."""

    def __init__(self, worker: Worker, thread: ThreadPoolExecutor, work: Work[Event]) -> None:
        self._worker, self._work = worker, work
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._gone = threading.Event()
        self._over = asyncio.Event()
        self._future = thread.submit(self._run)
        self._future.add_done_callback(lambda _: self._tell(self._finish))

    async def next(self) -> Event | None:
        """The next thing that the work says, None at its end; raises what the work raised.

        Raises:
            Left: the client is gone.
            RequestError: the worker is closed, or the work ended for a reason that the client is told.
        """
        if (event := await self._events.get()) is not None:
            return event
        try:
            return self._future.result()
        except CancelledError:
            raise Left if self._gone.is_set() else stopping() from None

    def leave(self) -> None:
        """Nobody waits any more: what has not begun never does, what has ends after its current step."""
        self._gone.set()
        self._future.cancel()

    async def ended(self) -> None:
        """Wait until the thread has nothing to do with it any more."""
        await self._over.wait()

    def _run(self) -> None:
        start = time.monotonic()
        try:
            self._work(self._say, self._check)
        finally:
            self._worker.seconds = time.monotonic() - start

    def _check(self) -> None:
        if self._gone.is_set():
            raise Left
        if self._worker.closing.is_set():
            raise stopping()

    def _finish(self) -> None:
        self._events.put_nowait(None)
        self._over.set()

    def _say(self, event: Event) -> None:
        self._tell(self._events.put_nowait, event)

    def _tell(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the event loop call a function, unless it has ended and nobody listens."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)
