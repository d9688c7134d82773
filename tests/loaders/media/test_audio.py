"""Sounds: against goldens of transformers, lengths, rates and channels, and what is wrong with files."""

from __future__ import annotations

import io
import struct
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g4convert.loaders.media import read_audio
from g4convert.loaders.media.audio import from_samples, read_samples
from g4convert.loaders.media.mel import count_soft_tokens, log_mel
from g4convert.schemas.errors import MediaError
from g4convert.tests.loaders.media.samples import AUDIO, MEDIA, goldens, one_line
from g4convert.tests.media.make_media import RATE, SIGNALS, noise, silence, sound, speech_like, sweep, wav
from hypothesis import given
from hypothesis import strategies as st

TOLERANCE = 1e-5


def golden(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The samples of a golden, and what transformers makes of them."""
    signal, length = name.split("-")
    return SIGNALS[signal](int(length)), goldens("mel")[name]


@pytest.mark.parametrize("name", goldens("mel"))
def test_features_are_what_transformers_makes_of_them(name: str) -> None:
    samples, features = golden(name)
    (clip,) = from_samples(samples, AUDIO)

    assert clip.features.dtype == np.float32
    np.testing.assert_allclose(clip.features, features, rtol=0, atol=TOLERANCE)
    assert np.array_equal(clip.valid, goldens("valid")[name])
    assert clip.soft_tokens == goldens("tokens")[name]


@pytest.mark.parametrize(
    "changes",
    [
        {"preemphasis": 0.97},
        {"mel_floor": 1e-5},
        {"fft_length": 1024},
        {"frame_length": 400},
        {"min_frequency": 125.0},
        {"max_frequency": 7600.0},
        {"dither": 1e-3},
        {"padding_side": "left"},
    ],
    ids="-".join,
)
def test_a_wrong_setting_would_be_seen(changes: dict[str, Any]) -> None:
    samples, features = golden("speech-5000")
    mutant, _ = log_mel(samples, replace(AUDIO, **changes))

    assert mutant.shape != features.shape or np.abs(mutant - features).max() > 100 * TOLERANCE


@pytest.mark.parametrize("mutant", [lambda found: found[:, ::-1], lambda found: np.roll(found, 1, axis=0)])
def test_upside_down_and_late_features_would_be_seen(mutant: Any) -> None:
    samples, features = golden("sweep-5000")

    assert np.abs(mutant(log_mel(samples, AUDIO)[0]) - features).max() > 1


def expected_tokens(length: int) -> int:
    """By the reference's arithmetic on lengths: mel frames, then two convolutions."""
    frames = (length + 160 - 321) // 160 + 1
    for _ in range(2):
        frames = (frames + 2 - 3) // 2 + 1
    return frames


@given(st.integers(161, 20_000))
def test_soft_tokens_follow_from_the_frames(length: int) -> None:
    features, valid = log_mel(silence(length), AUDIO)

    assert count_soft_tokens(valid) == expected_tokens(length)
    assert len(features) == len(valid) >= valid.sum() == (length - 161) // 160 + 1


def test_soft_tokens_are_not_the_duration_over_40_ms() -> None:
    """Other converters count so, and are one off for a quarter of all lengths."""
    lengths = range(161, 20_000, 61)
    wrong = [length for length in lengths if -(-length // 640) != expected_tokens(length)]

    assert len(wrong) > len(lengths) / 8


def test_dither_is_the_same_each_time() -> None:
    dithered = replace(AUDIO, dither=1e-4)

    assert np.array_equal(log_mel(silence(999), dithered)[0], log_mel(silence(999), dithered)[0])
    assert not np.array_equal(log_mel(silence(999), dithered)[0], log_mel(silence(999), AUDIO)[0])


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_any_rate_and_number_of_channels(rate: int, channels: int) -> None:
    time = np.arange(2 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    samples = read_samples(wav(np.stack([tone] * channels, axis=1), rate), RATE)

    assert abs(len(samples) - 2 * RATE) <= 32
    inner = samples[RATE // 2 : RATE // 2 * 3]
    assert inner.dtype == np.float32
    assert np.abs(np.fft.rfft(inner)).argmax() == 440
    assert np.abs(inner).max() == pytest.approx(0.5, abs=0.01)


def test_sixteen_bits_at_the_right_rate_are_exact() -> None:
    levels = np.round(noise(5000) * 32768)

    assert np.array_equal(read_samples(wav(levels / 32768), RATE), (levels / 32768).astype(np.float32))


def test_channels_are_averaged() -> None:
    left, right = noise(4000), sweep(4000)
    stereo = read_samples(wav(np.stack([left, right], axis=1)), RATE)

    assert np.abs(stereo - (left + right) / 2).max() < 1e-4


@pytest.mark.parametrize("name", ["stereo-44k.flac", "stereo-44k.mp3"])
def test_compressed_files(name: str) -> None:
    (clip,) = read_audio(MEDIA / name, AUDIO)
    (again,) = read_audio((MEDIA / name).read_bytes(), AUDIO)

    assert clip.soft_tokens == 25
    assert np.array_equal(clip.features, again.features)


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("ogg", "libopus"),
        ("mp4", "aac"),
        ("adts", "aac"),
        ("matroska", "aac"),
        ("webm", "libopus"),
        ("aiff", "pcm_s16be"),
    ],
)
def test_containers(form: str, codec: str) -> None:
    samples = read_samples(sound(speech_like(48_000)[None], form, codec, 48_000), RATE)

    assert abs(len(samples) / RATE - 1) < 0.08


def test_the_longest_clip_is_whole() -> None:
    (clip,) = from_samples(silence(AUDIO.max_samples), AUDIO)

    assert clip.soft_tokens == AUDIO.audio_seq_length


def test_a_longer_clip_is_refused() -> None:
    with pytest.raises(MediaError, match=r"30\.0 s of sound, and a clip holds 30\.0 s at most"):
        from_samples(silence(AUDIO.max_samples + 1), AUDIO)


def test_ten_minutes_are_refused_before_all_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(wav(silence(600 * RATE)))

    with pytest.raises(MediaError, match=r"600\.0 s of sound, and a clip holds 30\.0 s") as caught:
        read_audio(path, AUDIO)
    one_line(caught, path)


@pytest.mark.parametrize(("seconds", "count"), [(30.1, 2), (61, 3), (600, 20)])
def test_a_long_sound_can_be_split_and_nothing_is_lost(seconds: float, count: int) -> None:
    samples = noise(round(seconds * RATE))

    with pytest.warns(UserWarning, match=rf"{seconds:.1f} s of sound are split into {count} clips"):
        clips = from_samples(samples, AUDIO, split=True)

    assert len(clips) == count
    pieces = np.array_split(samples, count)
    assert all(
        np.array_equal(clip.features, log_mel(piece, AUDIO)[0]) for clip, piece in zip(clips, pieces, strict=True)
    )
    assert max(clip.soft_tokens for clip in clips) <= AUDIO.audio_seq_length


def test_a_short_sound_is_not_split() -> None:
    assert len(read_audio(MEDIA / "speech.wav", AUDIO, split=True)) == 1


def test_too_short_for_a_frame() -> None:
    with pytest.raises(MediaError, match="has 160 samples at 16000 Hz, too few for one frame; give 161 or more"):
        from_samples(silence(160), AUDIO)


def float_wav(samples: np.ndarray) -> bytes:
    """A WAV of 32-bit floats, which the `wave` module cannot write."""
    data = samples.astype("<f4").tobytes()
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, RATE, RATE * 4, 4, 32)
    body = b"WAVE" + head + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI", b"RIFF", len(body)) + body


SPEECH = (MEDIA / "speech.wav").read_bytes()
FLAC, MP3 = (MEDIA / "stereo-44k.flac").read_bytes(), (MEDIA / "stereo-44k.mp3").read_bytes()
BAD = {
    "empty.wav": (b"", "the file is empty"),
    "text.wav": (b"this is not a sound " * 50, "cannot be decoded as sound"),
    "picture.wav": ((MEDIA / "picture.png").read_bytes(), "is a picture, not a sound"),
    "silent.mp4": ((MEDIA / "constant.mp4").read_bytes(), "has no audio stream"),
    "head.wav": (SPEECH[:44], "holds no samples"),
    "cut.wav": (SPEECH[:20_001], "is cut off"),
    "cut.flac": (FLAC[: len(FLAC) // 2], "cannot be decoded"),
    "cut.mp3": (MP3[: len(MP3) // 2], r"is cut off: it ends after 0\.\d s, and its header says 1\.0 s"),
    "nan.wav": (float_wav(np.array([0.1] * 500 + [np.nan])), "NaN or infinite"),
    "infinite.wav": (float_wav(np.array([0.1] * 500 + [np.inf])), "NaN or infinite"),
    "short.wav": (wav(silence(100)), "has 100 samples"),
    "list.m3u8": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hostname\n#EXT-X-ENDLIST\n",
        "cannot be decoded",
    ),
    "list.ffconcat": (f"ffconcat version 1.0\nfile '{MEDIA / 'speech.wav'}'\n".encode(), "cannot be decoded"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path, (data, what) = tmp_path / name, BAD[name]
    path.write_bytes(data)

    with pytest.raises(MediaError, match=what) as caught:
        read_audio(path, AUDIO)
    one_line(caught, path)


def test_an_address_is_a_path_like_any_other() -> None:
    with pytest.raises(MediaError, match="there is no such file"):
        read_audio("http://localhost/a.wav", AUDIO)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_is_whole(size: int) -> None:
    stream = io.BytesIO(SPEECH)
    with wave.open(stream) as file:
        expected = file.getnframes()
    field = struct.pack("<I", size)
    piped = SPEECH[:4] + field + SPEECH[8:40] + field + SPEECH[44:]

    assert len(read_samples(piped, RATE)) == expected
