"""Shards made elsewhere: by the threads, processes or machines behind a `concurrent.futures.Executor`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, as_completed
from contextlib import contextmanager

from ..schemas.errors import ExecutorError, G4ConvertError
from .manifest import package_version
from .shards import ShardJob, make_shard
from .writer import ShardRecord

AGAIN = "the same call goes on where it stopped"


def make_elsewhere(
    jobs: Iterable[ShardJob], executor: Executor, done: Callable[[ShardJob, ShardRecord], object]
) -> None:
    """Have shards made by an executor; those that have not been begun are called off when one fails.

    Args:
        jobs: which ones.
        executor: whatever runs functions; in other processes or on other machines, too, if they share the folders.
        done: called in this thread with each job when its shard is made, in whatever order.

    Raises:
        ExecutorError: the executor gave up, or a worker of it has another g4convert or other folders.
        G4ConvertError: what `make_shard` says.
    """
    futures: dict[Future[ShardRecord], ShardJob] = {}
    try:
        for job in jobs:
            with _executor_errors():
                futures[executor.submit(_make, job, package_version())] = job
        for future in as_completed(futures):
            with _executor_errors():
                record = future.result()
            done(futures[future], record)
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _executor_errors() -> Iterator[None]:
    """Whatever is not about a shard is about what should have made it."""
    try:
        yield
    except G4ConvertError:
        raise
    except CancelledError as error:
        raise ExecutorError("the executor gave a shard up", fix=AGAIN) from error
    except Exception as error:
        said = f"{type(error).__name__}: {error}".rstrip(": .")
        raise ExecutorError(f"a shard was not made: {said}", fix=AGAIN) from error


def _make(job: ShardJob, version: str) -> ShardRecord:
    """The worker's part.

    Args:
        job: which shard.
        version: of the g4convert that planned it; another could write other bytes.
    """
    where = f"the worker on {socket.gethostname()}"
    if package_version() != version:
        raise ExecutorError(
            f"has g4convert {package_version()}, and {version} planned the work", where=where, fix="install the same"
        )
    for path in (job.folder, *job.sources):
        if not path.exists():
            raise ExecutorError(f"does not see {path}", where=where, fix="give all workers the same folders")
    return make_shard(job, _unheard)


def _unheard(_: int) -> None:
    """The coordinator counts whole shards."""
