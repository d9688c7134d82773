"""Make one shard of the output, chunk by chunk; a job holds all that this takes, and can be pickled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..schemas.errors import OutputError
from .chunks import Chunk, Piece, convert, cut, read
from .decoding import Files, open_files
from .lattice import Tally
from .memory import WAITING, chunk_bytes
from .plan import Shard
from .stamps import Stamps, unchanged
from .writer import ShardFile, ShardRecord

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ShardJob:
    """One shard to make.

    Attributes:
        shard: what it holds.
        folder: where it is made.
        stamps: the source's files, as they were when they were planned with; the shard may need some of them only.
        max_memory: bound on the resident memory of the process that makes it, in bytes; None is no bound.
        workers: threads that work on chunks side by side.
    """

    shard: Shard
    folder: Path
    stamps: Stamps
    max_memory: int | None
    workers: int

    @property
    def source_bytes(self) -> int:
        """Bytes that are read for it."""
        return sum(Chunk(step, 0, step.rows).source_bytes for step in self.shard.steps)

    @property
    def sources(self) -> Stamps:
        """The files that it is read from."""
        needed = {part.file for step in self.shard.steps for part in step.source.parts}
        return {path: stamp for path, stamp in self.stamps.items() if path in needed}


@cache
def chunk_limit(max_memory: int | None, workers: int) -> int:
    """How many source bytes a chunk may read in this process, as measured before its first shard.

    Raises:
        UsageError: the imports alone leave too little of `max_memory`.
    """
    return chunk_bytes(max_memory, workers)


def make_shard(job: ShardJob, progress: Progress) -> ShardRecord:
    """Write and sync one shard.

    Args:
        job: which one.
        progress: called with the number of source bytes just done.

    Raises:
        OutputError: the disk refuses, or the work was given up.
        ShardError: the source cannot be read, or was changed since it was planned with.
        TensorError: a weight is not finite.
        UsageError: `max_memory` is too small.
    """
    tallies: dict[str, Tally] = {}
    with unchanged(job.sources), open_files(job.sources) as files, ShardFile(job.folder, job.shard) as file:
        for chunk, pieces in _in_order(job, files, file):
            for piece in pieces:
                file.note(piece.name, piece.data)
                if piece.tally is not None:
                    tallies[piece.name] = tallies.get(piece.name, Tally()) + piece.tally
            if file.given_up:
                raise OutputError("nobody waits for it any more", where=file.path)
            progress(chunk.source_bytes)
        return ShardRecord(file.sync(), tallies)


def _in_order(job: ShardJob, files: Files, file: ShardFile) -> Iterator[tuple[Chunk, list[Piece]]]:
    """Chunks are worked on and written side by side, and handed over in order, a few at a time."""
    pending: deque[tuple[Chunk, Future[list[Piece]]]] = deque()
    limit = chunk_limit(job.max_memory, job.workers)
    chunks = (chunk for step in job.shard.steps for chunk in cut(step, limit))
    with ThreadPoolExecutor(job.workers) as pool:
        try:
            for chunk in chunks:
                pending.append((chunk, pool.submit(_work, chunk, files, file)))
                if len(pending) == job.workers + WAITING:
                    yield _finished(pending)
            while pending:
                yield _finished(pending)
        finally:
            for _, future in pending:
                future.cancel()


def _finished(pending: deque[tuple[Chunk, Future[list[Piece]]]]) -> tuple[Chunk, list[Piece]]:
    chunk, future = pending.popleft()
    return chunk, future.result()


def _work(chunk: Chunk, files: Files, file: ShardFile) -> list[Piece]:
    pieces = convert(chunk, read(chunk, files))
    for piece in pieces:
        file.put(piece.name, piece.offset, piece.data)
    return pieces
