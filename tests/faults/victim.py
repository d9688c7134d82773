"""Conversions in processes of their own, in each of which something happens at a chosen call to the system."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from g4convert.convert import cli, place

# By which of the two a piece is written, or by both in turn, is for the kernel to say.
WRITES = ("pwrite", "pwritev")
# The functions by which a conversion changes the disk: of `os`, and the one that `os` lacks.
CHANGES = (
    "exchange", "fsync", "ftruncate", "mkdir", "open", "rename", "replace", "rmdir", "unlink", "write", *WRITES,
)  # fmt: skip
# The children of a server that has imported everything; macOS's own libraries do not survive a fork.
PROCESSES: Any = multiprocessing.get_context("spawn" if sys.platform == "darwin" else "forkserver")
PROCESSES.set_forkserver_preload(["g4convert.convert.report", "jsonschema", "tqdm", __name__])

Arguments = Sequence[str | Path]


@dataclass(frozen=True)
class At:
    """Do something before the call `number`, counted from 1, of any of these functions.

    With `two_steps` the disk cannot let two folders change places.
    """

    number: int
    action: Callable[[], object]
    functions: tuple[str, ...] = CHANGES
    two_steps: bool = False


@dataclass(frozen=True)
class End:
    """How a conversion ended: its exit status, negative for a signal, and what it said on standard error."""

    status: int
    said: str


@dataclass(frozen=True)
class Signal:
    """What `kill` does, or Ctrl-C."""

    number: signal.Signals

    def __call__(self) -> None:
        os.kill(os.getpid(), self.number)


@dataclass(frozen=True)
class Fails:
    """The call fails."""

    code: int

    def __call__(self) -> None:
        raise OSError(self.code, os.strerror(self.code))


@dataclass(frozen=True)
class Fill:
    """Somebody takes all the room that there is on a disk, for a file."""

    ballast: Path

    def __call__(self) -> None:
        with self.ballast.open("wb") as stream:
            disk = os.fstatvfs(stream.fileno())
            os.posix_fallocate(stream.fileno(), 0, disk.f_bavail * disk.f_frsize)


@dataclass(frozen=True)
class Calls:
    """Somebody does something to a file."""

    function: Callable[[Path], object]
    path: Path

    def __call__(self) -> None:
        self.function(self.path)


def interrupt_twice() -> None:
    """The second Ctrl-C comes when the program says goodbye."""
    quit_ = cli._quit

    def interrupted(message: str, status: int) -> NoReturn:
        INTERRUPT()
        quit_(message, status)

    cli._quit = interrupted
    INTERRUPT()


KILL, INTERRUPT = Signal(signal.SIGKILL), Signal(signal.SIGINT)
FULL, BROKEN = Fails(errno.ENOSPC), Fails(errno.EIO)


def convert(arguments: Arguments, log: Path, at: At | None = None) -> End:
    """Run `g4convert hf-to-mlx`.

    Args:
        arguments: of the command.
        log: where to put what it says.
        at: what happens meanwhile.
    """
    process = start(arguments, log, at)
    process.join()
    return End(process.exitcode, log.read_text())


def start(arguments: Arguments, log: Path, at: At | None = None) -> Any:
    """As `convert`, without waiting for the end; gives the process."""
    process = PROCESSES.Process(target=_run, args=([str(argument) for argument in arguments], log, at))
    process.start()
    return process


def calls_of(arguments: Arguments, log: Path, functions: Sequence[str] = CHANGES) -> list[str]:
    """Which of these functions an undisturbed conversion calls, in order."""
    process = PROCESSES.Process(target=_record, args=([str(argument) for argument in arguments], log, functions))
    process.start()
    process.join()
    assert process.exitcode == 0
    return [str(name) for name in json.loads(log.read_text())]


def _run(arguments: list[str], log: Path, at: At | None) -> None:
    if at is not None:
        if at.two_steps:
            place.exchange = lambda *_: False
        numbers = count(1)
        _watch(at.functions, lambda _: at.action() if next(numbers) == at.number else None)
    _main(arguments, log)


def _record(arguments: list[str], log: Path, functions: Sequence[str]) -> None:
    names: list[str] = []
    _watch(functions, names.append)
    try:
        _main(arguments, log)
    finally:
        log.write_text(json.dumps(names))


def _main(arguments: list[str], log: Path) -> None:
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = log.open("w", buffering=1)
    sys.argv = ["g4convert", "hf-to-mlx", *arguments]
    cli.main()


def _watch(functions: Sequence[str], see: Callable[[str], object]) -> None:
    """Have `see` called with the name before each call; files that are only read do not count as opened."""

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "open" or args[1] & os.O_CREAT:
                see(name)
            return function(*args, **kwargs)

        return call

    for name in functions:
        owner = place if name == "exchange" else os
        setattr(owner, name, watched(name, getattr(owner, name)))
