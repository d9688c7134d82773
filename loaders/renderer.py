"""Keeps the process in which chat templates run (`sandbox.py`), and kills it when one takes too much.

A sandbox alone cannot stop a template: `'a' * 10**10` is one instruction. A process can be killed in the middle of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

from ..schemas.errors import ConfigError, UsageError

SCRIPT = Path(__file__).with_name("sandbox.py")
# What the script imports that does not come with Python.
LIBRARIES = ("jinja2", "markupsafe")

# For Python to start and to import them, on a slow disk.
START_SECONDS = 30.0
# How often a rendering that takes long is looked at.
TICK = 0.05
# JSON spells a character in at most six bytes.
BYTES_PER_CHARACTER = 6
CHUNK = 1 << 16

# After these, another process is started.
DEADLY = frozenset({"time", "memory", "crash"})


@dataclass(frozen=True)
class Limits:
    """What one rendering may take.

    Attributes:
        seconds: of wall-clock time.
        seconds_a_message: more of them; the published templates look back from each message to all before it.
        memory: bytes that the process holds.
        characters: of the text.
    """

    seconds: float = 2.0
    seconds_a_message: float = 0.02
    memory: int = 400_000_000
    characters: int = 10_000_000


@dataclass(frozen=True)
class Fault:
    """Why there is no text.

    Attributes:
        kind: `raised` by the template itself; `syntax`; `sandbox`: it reaches for what it must not; `size`: a number or
            a nesting that no program needs; `time`, `memory`, `length`: beyond a limit; `crash`: the process died;
            `failed`: any other error.
        what: in words.
    """

    kind: str
    what: str


class Renderer:
    """One process, started when it is first needed, and again when a template has had to be killed.

    Args:
        limits: of every rendering.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, template: str, variables: Mapping[str, Any]) -> str | Fault:
        """The text that a template makes of its variables, which are what JSON can hold.

        Raises:
            UsageError: the variables are not.
            ConfigError: no process can be started.
        """
        seconds = self._seconds(variables)
        request = _encode({"template": template, "variables": variables, "seconds": seconds})
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            answer = self._exchange(request, seconds)
        return answer["text"] if "text" in answer else self._fault(answer, seconds)

    def close(self) -> None:
        """End the process; the next rendering starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _close_pipes(process)
            process.wait()

    def disown(self) -> None:
        """Leave the process to the one that started it: after a fork, two would talk to it at once."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            _close_pipes(process)
            process.poll()  # finds no child, so that nothing waits for it

    def _seconds(self, variables: Mapping[str, Any]) -> float:
        return self.limits.seconds + self.limits.seconds_a_message * len(variables.get("messages", ()))

    def _start(self) -> None:
        self.close()
        python = [sys.executable, "-I", "-S", "-W", "ignore"]
        command = [*python, str(SCRIPT), json.dumps(asdict(self.limits)), *_folders()]
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us
            )
        except OSError as error:
            raise _not_started(error.strerror) from None
        if "fault" in self._exchange(b"", START_SECONDS):
            raise _not_started("it ended at once")

    def _exchange(self, request: bytes, seconds: float) -> dict[str, str]:
        """Send a request and take the answer; a process that has not given one whole is killed."""
        process = self._process
        assert process is not None
        watch = _Watch(process, seconds, self.limits.memory)
        try:
            with watch:
                answer = _talk(process, request, BYTES_PER_CHARACTER * self.limits.characters + CHUNK)
        except (OSError, ValueError, RecursionError):
            answer = {"fault": "crash"}
        except BaseException:
            self.close()
            raise
        if watch.found is not None:
            answer = {"fault": watch.found}
        if answer.get("fault") in DEADLY:
            self.close()
        return answer

    def _fault(self, answer: Mapping[str, str], seconds: float) -> Fault:
        words = {
            "time": f"it takes more than {seconds:.1f} seconds",
            "memory": f"it takes more than {self.limits.memory:,} bytes of memory",
            "length": f"its text has more than {self.limits.characters:,} characters",
            "crash": "it ends the process that it runs in",
        }
        kind = answer.get("fault", "crash")
        return Fault(kind, words.get(kind) or answer.get("what", ""))


class _Watch(threading.Thread):
    """Kills a process that takes too long or too much; whatever is read from it or written to it then ends.

    Attributes:
        found: `time` or `memory`, if that came.
    """

    def __init__(self, process: subprocess.Popen[bytes], seconds: float, memory: int) -> None:
        super().__init__(daemon=True)
        self.found: str | None = None
        self._process, self._memory = process, memory
        self._end = time.monotonic() + seconds
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        """Look, until the work is done."""
        while self.found is None and not self._done.wait(TICK):
            self.found = self._excess()
        if self.found is not None:
            self._process.kill()

    def _excess(self) -> str | None:
        if time.monotonic() > self._end:
            return "time"
        return "memory" if resident(self._process.pid) > self._memory else None


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where there is no `ps` to ask.

    Linux bounds them itself, macOS does not, and has `ps`.
    """
    try:
        said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=False).stdout
    except OSError:
        return 0
    return 1024 * int(said) if said.strip().isdigit() else 0


def _folders() -> list[str]:
    """Where this process finds the libraries."""
    origins = [spec.origin for spec in map(find_spec, LIBRARIES) if spec is not None and spec.origin is not None]
    return list(dict.fromkeys(str(Path(origin).parents[1]) for origin in origins))


def _encode(document: Any) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the messages hold what JSON cannot: {error}", fix="give texts, numbers and lists") from None


def _plain(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _talk(process: subprocess.Popen[bytes], request: bytes, most: int) -> dict[str, str]:
    """Send a line and read one, of at most so many bytes.

    Raises:
        OSError: the process does not read.
        ValueError: it does not answer, or something else.
    """
    _write(_pipe(process.stdin), request)
    answer = json.loads(_read_line(_pipe(process.stdout), most).decode("utf-8", "surrogatepass"))
    return dict(answer)


def _write(pipe: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[pipe.write(rest) :]


def _read_line(pipe: IO[bytes], most: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = pipe.read(CHUNK)
        line += piece
        if not piece or len(line) > most:
            raise ValueError("no line")
    return bytes(line)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    _pipe(process.stdin).close()
    _pipe(process.stdout).close()


def _not_started(why: str | None) -> ConfigError:
    return ConfigError(f"the process that renders chat templates does not start: {why}", where=sys.executable)
