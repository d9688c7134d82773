"""A clip -> frames with their times, each one a picture for the vision tower."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ...schemas.errors import MediaError, UsageError
from .config import VideoSettings
from .image import from_rgb
from .source import Source, check_length, container, cut_off, declared_seconds, first_stream, name_of

if TYPE_CHECKING:
    from av.container import InputContainer

TIMESTAMPS = ("true", "index")

TS_DISCONT = 0x0200
"""FFmpeg's AVFMT_TS_DISCONT: the clock of such a format may start anywhere and jump."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Video:
    """A clip as the network takes it.

    Attributes:
        patches: [frames, N, 3 * patch_size**2] float32, each frame as in `Image`.
        positions: [frames, N, 2] int32, the patch's column and row.
        soft_tokens: places that each frame takes in the prompt.
        indices: [frames] int64: which frames of the file these are.
        timestamps: when each is shown, in seconds.
        labels: the same as `mm:ss`, as the prompt has it.
    """

    patches: NDArray[np.float32]
    positions: NDArray[np.int32]
    soft_tokens: int
    indices: Indices
    timestamps: tuple[float, ...]
    labels: tuple[str, ...]


@dataclass
class _Summary:
    """What the packets of a clip say, before anything is decoded."""

    rate: float | None
    """Frames a second, on average."""
    frames: int = 0
    last_end: int | None = None
    """When the last one ends, by the stream's clock."""
    incomplete: bool = False

    def add(self, packet: Any) -> None:
        """Count one packet."""
        self.frames += 1
        self.incomplete = self.incomplete or packet.is_corrupt
        if packet.pts is not None:
            end = packet.pts + (packet.duration or 0)
            self.last_end = end if self.last_end is None else max(end, self.last_end)


def read_video(
    source: Source,
    settings: VideoSettings,
    *,
    fps: float | None = None,
    max_frames: int | None = None,
    timestamps: str = "true",
) -> Video:
    """Read evenly spaced frames of a clip, of any file that FFmpeg decodes.

    Args:
        source: a path, or the bytes of a file.
        settings: the checkpoint's; its `num_frames` is how many frames, where the clip has as many.
        fps: take this many frames a second instead.
        max_frames: frames, at most; the checkpoint's `num_frames` if not given.
        timestamps: `true` for the times that the file gives its frames, `index` for a frame's number over the average
            rate, as transformers has it.

    Raises:
        MediaError: the clip cannot be read, or its frames have no times.
        UsageError: an option is not what it may be.
    """
    check_options(fps, max_frames, timestamps)
    name, summary = name_of(source), _summarize(source)
    take = partial(frame_indices, rate=summary.rate, settings=settings, fps=fps, max_frames=max_frames, name=name)
    frames, indices = _frames(source, summary.frames, take)
    times = _times(frames, indices, summary.rate, timestamps, name)
    _check_sizes(frames, name)
    pictures = [from_rgb(PIL.Image.fromarray(frame.pixels), settings, name) for frame in frames]
    return Video(
        patches=np.stack([picture.patches for picture in pictures]),
        positions=np.stack([picture.positions for picture in pictures]),
        soft_tokens=pictures[0].soft_tokens,
        indices=indices,
        timestamps=times,
        labels=tuple(map(label, times)),
    )


def check_options(fps: float | None, max_frames: int | None, timestamps: str) -> None:
    """Refuse what has no meaning.

    Raises:
        UsageError: an option is not what it may be.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"a clip cannot be read at {fps} frames a second", fix="give a number above 0")
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"a clip cannot have {max_frames} frames", fix="give 1 or more")
    if timestamps not in TIMESTAMPS:
        raise UsageError(f"timestamps cannot be {timestamps!r}", fix=f"choose one of {', '.join(TIMESTAMPS)}")


def frame_indices(
    total: int,
    rate: float | None,
    settings: VideoSettings,
    *,
    fps: float | None = None,
    max_frames: int | None = None,
    name: str = "video",
) -> Indices:
    """Which frames to take: the first of each of equal parts (transformers' `default_sample_indices_fn`).

    Where the reference raises, for a clip with fewer frames than are asked for, all of them are taken.

    Args:
        total: frames in the clip.
        rate: frames a second, on average.
        settings: the checkpoint's.
        fps: frames a second to take, instead of the checkpoint's `num_frames`.
        max_frames: frames, at most.
        name: the clip's, for the message.
    """
    if fps is not None:
        if rate is None:
            raise MediaError("does not say its frame rate", where=name, fix="leave the frames a second out")
        wanted = max(1, int(total / rate * fps))
    else:
        wanted = settings.num_frames if settings.do_sample_frames else total
    cap = max_frames or (settings.num_frames if settings.do_sample_frames else total)
    count = min(wanted, cap, total)
    return np.arange(count, dtype=np.int64) * total // max(count, 1)


def label(seconds: float) -> str:
    """`mm:ss`, cut, not rounded, as in transformers' `Gemma4Processor.replace_video_token`."""
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"


def _summarize(source: Source) -> _Summary:
    """Count the frames by their packets: fast, and right where the header says nothing or too much.

    Raises:
        MediaError: there are none, or fewer than the header says.
    """
    with container(source, "video") as found:
        stream = _video_stream(found)
        summary = _Summary(float(stream.average_rate) if stream.average_rate else None)
        for packet in found.demux(stream):
            if packet.size:
                summary.add(packet)
        _check_summary(source, found, summary)
    return summary


def _check_summary(source: Source, found: InputContainer, summary: _Summary) -> None:
    stream = _video_stream(found)
    if not summary.frames:
        raise MediaError("holds no frames", where=name_of(source), fix="give a clip that has some")
    if summary.frames < stream.frames:
        raise cut_off(source, f"{summary.frames} frames, and its header says {stream.frames}")
    if summary.incomplete:
        raise cut_off(source, "a packet is incomplete")
    if summary.last_end is not None and summary.rate is not None:
        end = float(summary.last_end * stream.time_base) - _clock_start(found, stream)
        check_length(source, end, declared_seconds(found, "video"), slack=2 / summary.rate)


def _video_stream(found: InputContainer) -> Any:
    return found.streams[first_stream(found, "video")]


@dataclass(frozen=True)
class _Frame:
    """A decoded frame: [height, width, 3] bytes, and when it is shown, in seconds."""

    pixels: NDArray[np.uint8]
    time: float | None


def _frames(source: Source, total: int, take: Callable[[int], Indices]) -> tuple[list[_Frame], Indices]:
    """The frames that `take` chooses from so many, or from as many as there turn out to be: some are not shown."""
    indices = take(total)
    frames, count = _decode(source, indices)
    if not count:
        raise MediaError("holds no frames", where=name_of(source), fix="give a clip that has some")
    if len(frames) < len(indices):
        indices = take(count)
        frames, _ = _decode(source, indices)
    return frames, indices


def _decode(source: Source, indices: Indices) -> tuple[list[_Frame], int]:
    """The frames with these numbers, and how many were decoded to get at them."""
    wanted, frames, count = set(indices.tolist()), [], 0
    with container(source, "video") as found:
        stream = _video_stream(found)
        stream.thread_type = "AUTO"
        start = _clock_start(found, stream)
        for count, frame in enumerate(found.decode(stream), 1):
            if count - 1 in wanted:
                frames.append(_Frame(_upright(frame), None if frame.time is None else frame.time - start))
            if len(frames) == len(wanted):
                break
    return frames, count


def _clock_start(found: InputContainer, stream: Any) -> float:
    """What the clock shows at the beginning: a transport stream's may show anything, others' show 0."""
    runs_on = bool(found.format.flags & TS_DISCONT)
    return float(stream.start_time * stream.time_base) if runs_on and stream.start_time is not None else 0.0


def _upright(frame: Any) -> NDArray[np.uint8]:
    """RGB, turned as the file says: telephones film lying down."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _times(frames: list[_Frame], indices: Indices, rate: float | None, timestamps: str, name: str) -> tuple[float, ...]:
    if timestamps == "index":
        if rate is None:
            raise MediaError("does not say its frame rate", where=name, fix="use the true timestamps")
        return tuple(index / rate for index in indices.tolist())
    times = [frame.time for frame in frames if frame.time is not None]
    if len(times) < len(frames):
        raise MediaError(
            "its frames have no timestamps",
            where=name,
            fix="put it into a container such as MP4, or use timestamps by index",
        )
    return tuple(times)


def _check_sizes(frames: list[_Frame], name: str) -> None:
    if len({frame.pixels.shape for frame in frames}) > 1:
        raise MediaError("its frames change their size", where=name, fix="convert it to one size")
