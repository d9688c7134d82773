"""Where media come from: a file or bytes, opened so that nothing else is read and every fault is one line.

FFmpeg gets an open file and no protocol: a playlist cannot make it read other files or the network.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ...schemas.errors import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer

KINDS = {"audio": "sound", "video": "video"}
# FFmpeg names its readers of single pictures so.
PICTURE_READERS = ("_pipe", "image2")
# A file's own idea of its length is a little off: encoders fill their last frame, and some readers estimate.
SLACK_SECONDS, SLACK_SHARE = 0.15, 0.02
MICROSECOND = 1e-6
# What a WAV file says of its size while it is being written to a pipe.
UNKNOWN_SIZES = (b"\0\0\0\0", b"\xff\xff\xff\xff")
# What somebody who asks a server can do about a link; what the server allows is said where it is started.
IN_BYTES = "send the file itself, as data:TYPE;base64,DATA"


@dataclass(frozen=True)
class Blob:
    """The bytes of a file, and what to call them in messages."""

    data: bytes
    name: str


Source = str | Path | bytes | Blob


def name_of(source: object) -> str:
    """The name of a source, for messages."""
    if isinstance(source, Blob):
        return source.name
    if isinstance(source, bytes):
        return f"data of {len(source)} bytes"
    return str(source) if isinstance(source, str | Path) else "picture"


@contextmanager
def opened(source: Source) -> Iterator[BinaryIO]:
    """Open a file, or bytes as if they were one.

    Raises:
        MediaError: there is no such file, it cannot be read, or it is empty.
    """
    name = name_of(source)
    try:
        _check_regular(source)
        stream = _stream(source)
    except FileNotFoundError:
        raise MediaError("there is no such file", where=name, fix="check the path") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"cannot be opened: {error}", where=name, fix="give a readable file") from None
    with stream:
        if not stream.read(1):
            raise MediaError("the file is empty", where=name, fix="fetch or record it again")
        stream.seek(0)
        yield stream


def _check_regular(source: Source) -> None:
    """A pipe would be waited for, perhaps forever, and cannot be read twice."""
    if isinstance(source, str | Path) and Path(source).exists() and not Path(source).is_file():
        raise MediaError("cannot be opened: it is no regular file", where=name_of(source), fix="give a file")


def _stream(source: Source) -> BinaryIO:
    if isinstance(source, Blob):
        return io.BytesIO(source.data)
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


@contextmanager
def container(source: Source, kind: str) -> Iterator[InputContainer]:
    """Open a file with FFmpeg; what goes wrong while it is read is a MediaError too.

    Args:
        source: the file.
        kind: `audio` or `video`: what it must hold.

    Raises:
        MediaError: it is not a media file, holds nothing of the kind, or is damaged.
    """
    import av

    name = name_of(source)
    with opened(source) as stream:
        try:
            with av.open(stream, mode="r", options={"protocol_whitelist": "none"}) as found:
                _check_kind(found, kind, name)
                yield found
        except (av.error.FFmpegError, EOFError, MemoryError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise MediaError(
                f"cannot be decoded as {KINDS[kind]}: {reason}",
                where=name,
                fix="it is damaged, cut off, or of another kind than its name says; fetch or convert it again",
            ) from None


def _check_kind(found: InputContainer, kind: str, name: str) -> None:
    if found.format.name.endswith(PICTURE_READERS):
        raise MediaError(f"is a picture, not a {KINDS[kind]}", where=name, fix="give it as a picture")
    if not _streams(found, kind):
        raise MediaError(f"has no {kind} stream", where=name, fix=f"give a file that holds {kind}")


def _streams(found: InputContainer, kind: str) -> list[int]:
    """Numbers of the streams of a kind; a cover picture is no video."""
    from av.stream import Disposition

    return [
        stream.index
        for stream in found.streams
        if stream.type == kind and not stream.disposition & Disposition.attached_pic
    ]


def first_stream(found: InputContainer, kind: str) -> int:
    """The number of the first stream of a kind, which `container` has made sure of."""
    return _streams(found, kind)[0]


def size_unknown(source: Source) -> bool:
    """Whether a file is a WAV that was written to a pipe: its header does not know how long it is."""
    with opened(source) as stream:
        head = stream.read(8)
    return head[:4] == b"RIFF" and head[4:] in UNKNOWN_SIZES


def declared_seconds(found: InputContainer, kind: str) -> float | None:
    """How long a file says that its first stream of a kind is, where that is more than a guess from its size."""
    stream = found.streams[first_stream(found, kind)]
    if found.format.name == "mp3" and stream.start_time is None:  # no header frame that counts the frames
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    alone = len(found.streams) == 1
    return found.duration * MICROSECOND if alone and found.duration is not None else None


def check_length(source: Source, seconds: float, declared: float | None, slack: float = 0.0) -> None:
    """Compare what was found with what the file says.

    Args:
        source: the file.
        seconds: the end of what was found.
        declared: from `declared_seconds`.
        slack: more seconds that may be missing.

    Raises:
        MediaError: a part is missing.
    """
    if declared is not None and seconds < declared * (1 - SLACK_SHARE) - SLACK_SECONDS - slack:
        raise cut_off(source, f"it ends after {seconds:.1f} s, and its header says {declared:.1f} s")


def cut_off(source: object, what: str) -> MediaError:
    """The error for a file that ends too early."""
    return MediaError(f"is cut off: {what}", where=name_of(source), fix="fetch or record it again")
