"""Bound the peak resident memory of the process: chunks get what remains after the imports."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from ..schemas.errors import UsageError

# Beyond this a chunk leaves the cache and gains nothing; below it the work per call is lost in overhead.
LARGEST_CHUNK, SMALLEST_CHUNK = 4 << 20, 128 << 10
# What a chunk needs for each byte of its source: in work float32 copies, masks and packed output; when it is done the
# output alone, at most twice as wide.
BYTES_IN_WORK, BYTES_DONE = 8, 2
# Chunks that are done and wait for one before them, beside those in work: enough for no worker to wait for another.
WAITING = 8
# Headers, the plan and the manifest, and what the allocator keeps.
RESERVE = 64_000_000


def peak_resident() -> int:
    """The largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, VmHWM forgets what the process was before it was exec'ed
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def chunk_bytes(max_memory: int | None, workers: int) -> int:
    """How many source bytes one chunk may read.

    Args:
        max_memory: bound on the process's resident memory in bytes; None asks for no bound.
        workers: threads that work on chunks at once.

    Raises:
        UsageError: the imports alone leave too little.
    """
    if max_memory is None:
        return LARGEST_CHUNK
    in_flight = workers * BYTES_IN_WORK + WAITING * BYTES_DONE
    spare = max_memory - peak_resident() - RESERVE
    if spare < SMALLEST_CHUNK * in_flight:
        needed = max_memory - spare + SMALLEST_CHUNK * in_flight
        raise UsageError(
            f"{max_memory:,} bytes are too few: the program itself takes {needed:,}",
            where="--max-memory",
            fix=f"give at least {needed // 1_000_000 + 1}MB",
        )
    return min(LARGEST_CHUNK, spare // in_flight)
