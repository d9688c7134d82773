"""Make one shard of the output, chunk by chunk; a job holds all that this takes, and can be pickled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .chunks import Chunk, Piece, convert, cut, read
from .decoding import Files, open_files
from .lattice import Tally
from .memory import WAITING
from .plan import Shard
from .stamps import Stamps, check_stamps
from .writer import ShardFile, ShardRecord

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ShardJob:
    """One shard to make.

    Attributes:
        shard: what it holds.
        folder: the unfinished output.
        stamps: the source's files, as they were when they were planned with; the shard may need some of them only.
        chunk_bytes: of the source, that one chunk may read.
        workers: threads that work on chunks side by side.
    """

    shard: Shard
    folder: Path
    stamps: Stamps
    chunk_bytes: int
    workers: int

    @property
    def chunks(self) -> list[Chunk]:
        """What the shard is made of, in order."""
        return [chunk for step in self.shard.steps for chunk in cut(step, self.chunk_bytes)]

    @property
    def source_bytes(self) -> int:
        """Bytes that are read for it."""
        return sum(chunk.source_bytes for chunk in self.chunks)

    @property
    def sources(self) -> Stamps:
        """The files that it is read from."""
        needed = {part.file for step in self.shard.steps for part in step.source.parts}
        return {path: stamp for path, stamp in self.stamps.items() if path in needed}


def make_shard(job: ShardJob, progress: Progress) -> ShardRecord:
    """Write and sync one shard.

    Args:
        job: which one.
        progress: called with the number of source bytes just done.

    Raises:
        OutputError: the disk refuses.
        ShardError: the source cannot be read, or was changed since it was planned with.
        TensorError: a weight is not finite.
    """
    tallies: dict[str, Tally] = {}
    sources = job.sources
    with open_files(sources) as files, ShardFile(job.folder, job.shard) as file:
        for chunk, pieces in _in_order(job, files):
            for piece in pieces:
                file.put(piece.name, piece.offset, piece.data)
                if piece.tally is not None:
                    tallies[piece.name] = tallies.get(piece.name, Tally()) + piece.tally
            progress(chunk.source_bytes)
        digests = file.sync()
    check_stamps(sources)
    return ShardRecord(digests, tallies)


def _in_order(job: ShardJob, files: Files) -> Iterator[tuple[Chunk, list[Piece]]]:
    """Chunks are worked on side by side and handed over in order, a few at a time."""
    pending: deque[tuple[Chunk, Future[list[Piece]]]] = deque()
    with ThreadPoolExecutor(job.workers) as pool:
        try:
            for chunk in job.chunks:
                pending.append((chunk, pool.submit(_work, chunk, files)))
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


def _work(chunk: Chunk, files: Files) -> list[Piece]:
    return convert(chunk, read(chunk, files))
