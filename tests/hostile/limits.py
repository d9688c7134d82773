"""What a bad checkpoint may cost: five seconds, a gigabyte, no network."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from types import FrameType

import pytest

# Of the processor; a machine that is busy with something else may take longer, but nothing may wait for ever.
SECONDS = 5.0
WAITING = 30.0
# Characters that are still a line.
LINE = 1100
# A gigabyte, of which the program itself takes a fifth before it opens anything.
GROWTH = 800_000_000


@contextmanager
def limits(seconds: float = SECONDS, waiting: float = WAITING, growth: int = GROWTH) -> Iterator[None]:
    """Fail the test when the block computes or waits longer, holds more memory at any moment, or opens a connection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _no_network)
        computing = _alarm(signal.ITIMER_PROF, signal.SIGPROF, seconds)
        with computing, _alarm(signal.ITIMER_REAL, signal.SIGALRM, waiting):
            before = _reset_peak()
            yield
        if before is not None and (grown := _peak() - before) > growth:
            pytest.fail(f"it took {grown:,} bytes of memory, {growth:,} are allowed")


def _no_network(*_: object) -> None:
    pytest.fail("it opens a connection")


@contextmanager
def _alarm(timer: int, sign: signal.Signals, seconds: float) -> Iterator[None]:
    def late(_: int, __: FrameType | None) -> None:
        # Not an Exception, so no handler of the program takes it for a bad file.
        pytest.fail(f"it took more than {seconds} s")

    before = signal.signal(sign, late)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(sign, before)


def _reset_peak() -> int | None:
    """Forget the process's largest resident size so far; the size now, or None where the system cannot do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _peak()


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def state(folder: Path) -> dict[str, tuple[int, ...]]:
    """What lies in a folder, and when it was last changed."""
    paths = [Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files)]
    stats = {str(path): path.lstat() for path in paths}
    return {path: (stat.st_mode, stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


@dataclass(frozen=True)
class Ended:
    """What a process left.

    Attributes:
        status: its exit status, negative for a signal.
        out, err: what it printed.
        seconds: that it computed.
        peak: its largest resident size in bytes.
    """

    status: int
    out: str
    err: str
    seconds: float
    peak: int


def run_process(*arguments: str | Path, waiting: float = WAITING) -> Ended:
    """The command line in a process of its own, which is killed when it takes longer."""
    program = "from g4convert.convert.cli import main; main()"
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=out, stderr=err)
        killer = Timer(waiting, process.kill)
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        unit = 1 if sys.platform == "darwin" else 1024
        seconds = usage.ru_utime + usage.ru_stime
        return Ended(process.returncode, out.read(), err.read(), seconds, usage.ru_maxrss * unit)
