"""A sound -> log-mel frames, or frames of samples: decoded and resampled by FFmpeg, one channel."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import MediaError
from .config import AudioSettings, WaveformSettings
from .mel import count_soft_tokens, log_mel
from .source import Source, check_length, container, cut_off, declared_seconds, first_stream, name_of, size_unknown
from .waveform import frames

if TYPE_CHECKING:
    from av.container import InputContainer

SoundSettings = AudioSettings | WaveformSettings


@dataclass(frozen=True)
class Audio:
    """A clip as the network takes it.

    Attributes:
        features: [F, mel bins], zero where not valid, or [F, samples of a frame]; float32.
        valid: [F] bool: True for a frame of sound, False for padding.
        soft_tokens: places that the clip takes in the prompt.
    """

    features: NDArray[np.float32]
    valid: NDArray[np.bool_]
    soft_tokens: int


def read_audio(source: Source, settings: SoundSettings, *, split: bool = False) -> tuple[Audio, ...]:
    """Read a sound, at any rate and with any number of channels, of any file that FFmpeg decodes.

    Args:
        source: a path, or the bytes of a file; of a video, the first sound track.
        settings: the checkpoint's.
        split: cut a sound that is too long for one clip into equal ones, with a warning.

    Returns:
        One clip, or several of a split sound.

    Raises:
        MediaError: the sound cannot be read, is too short, or too long and not to be split.
    """
    samples = read_samples(source, settings.sampling_rate, limit=None if split else settings.max_samples)
    return from_samples(samples, settings, split=split, name=name_of(source))


def from_samples(
    samples: NDArray[np.float32], settings: SoundSettings, *, split: bool = False, name: str = "samples"
) -> tuple[Audio, ...]:
    """Like `read_audio`, from [n] mono samples at `sampling_rate`, -1 to 1."""
    samples = np.asarray(samples, np.float32)
    if not np.isfinite(samples).all():
        raise MediaError("has samples that are NaN or infinite", where=name, fix="repair or convert the file")
    if len(samples) < settings.min_samples:
        raise MediaError(
            f"has {len(samples)} samples at {settings.sampling_rate} Hz, too few for one frame",
            where=name,
            fix=f"give {settings.min_samples} or more",
        )
    pieces = [samples]
    if len(samples) > settings.max_samples:
        seconds = len(samples) / settings.sampling_rate
        if not split:
            raise _too_long(seconds, settings.max_seconds, name)
        pieces = _split(samples, settings)
        warnings.warn(
            f"{name}: {seconds:.1f} s of sound are split into {len(pieces)} clips, for one holds "
            f"{settings.max_seconds:.1f} s at most",
            stacklevel=3,
        )
    return tuple(_clip(piece, settings) for piece in pieces)


def _split(samples: NDArray[np.float32], settings: SoundSettings) -> list[NDArray[np.float32]]:
    """As few pieces as fit, of equal length to a sample: none is too short, none is lost."""
    return np.array_split(samples, -(-len(samples) // settings.max_samples))


def _clip(samples: NDArray[np.float32], settings: SoundSettings) -> Audio:
    if isinstance(settings, WaveformSettings):
        features, valid = frames(samples, settings)
        return Audio(features, valid, len(features))
    features, valid = log_mel(samples, settings)
    return Audio(features, valid, count_soft_tokens(valid))


def _too_long(seconds: float, longest: float, name: str) -> MediaError:
    return MediaError(
        f"{seconds:.1f} s of sound, and a clip holds {longest:.1f} s at most",
        where=name,
        fix="cut it, or have it split into several clips (--split-audio)",
    )


def read_samples(source: Source, rate: int, *, limit: int | None = None) -> NDArray[np.float32]:
    """Decode and resample a sound; channels are averaged.

    Args:
        source: the file.
        rate: samples a second to resample to.
        limit: samples at that rate from which on the sound is too long.

    Returns:
        [n] float32, -1 to 1 where the file does not go beyond.

    Raises:
        MediaError: the file is damaged, holds no sound, or more than the limit.
    """
    with container(source, "audio") as found:
        declared = declared_seconds(found, "audio")
        decoder = _Decoder(found, rate)
        pieces, count = [], 0
        for piece in decoder:
            pieces.append(piece)
            count += len(piece)
            if limit is not None and count > limit:
                raise _too_long(max(declared or 0, count / rate), limit / rate, name_of(source))
        if not count:
            raise MediaError("holds no samples", where=name_of(source), fix="record it again")
        _check_complete(source, decoder, declared, count / rate)
    return np.concatenate(pieces)


class _Decoder:
    """Decodes the first sound track of a container; `cut` tells afterwards whether a packet was incomplete."""

    def __init__(self, found: InputContainer, rate: int) -> None:
        self.found, self.rate, self.cut = found, rate, False

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        from av import AudioResampler

        # Without a layout, the channels stay as they are: FFmpeg weighs them when it mixes.
        resampler = AudioResampler(format="fltp", rate=self.rate)
        stream: Any = self.found.streams[first_stream(self.found, "audio")]
        for packet in self.found.demux(stream):
            self.cut = self.cut or packet.is_corrupt
            frames: list[Any] = packet.decode()
            for frame in frames:
                yield from map(_mono, resampler.resample(frame))
        yield from map(_mono, resampler.resample(None))


def _mono(frame: Any) -> NDArray[np.float32]:
    """[channels, n] -> [n]."""
    channels = frame.to_ndarray()
    mean: NDArray[np.float32] = channels[0] if len(channels) == 1 else channels.mean(axis=0, dtype=np.float32)
    return mean


def _check_complete(source: Source, decoder: _Decoder, declared: float | None, seconds: float) -> None:
    check_length(source, seconds, declared)
    if decoder.cut and not size_unknown(source):
        raise cut_off(source, "its last packet is incomplete")
