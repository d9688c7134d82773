"""The 12B's front ends: patches as large as soft tokens, and samples as they are."""

from __future__ import annotations

import numpy as np
import pytest
from g4convert.loaders.media import read_audio, read_image, read_video
from g4convert.loaders.media.audio import from_samples
from g4convert.schemas.errors import MediaError
from g4convert.tests.loaders.media.samples import (
    AUDIO,
    IMAGE,
    MEDIA,
    UNIFIED_IMAGE,
    UNIFIED_VIDEO,
    VIDEO,
    WAVEFORM,
)
from hypothesis import given
from hypothesis import strategies as st

PICTURES = ("picture.png", "palette.gif", "transparent.png", "turned.jpg")


def merged(patches: np.ndarray, positions: np.ndarray, kernel: int) -> tuple[np.ndarray, np.ndarray]:
    """Small patches put together by their positions, pixel by pixel."""
    side = int((patches.shape[1] / 3) ** 0.5)
    columns, rows = positions.max(axis=0) + 1
    picture = np.zeros((rows * side, columns * side, 3), np.float32)
    for patch, (column, row) in zip(patches, positions, strict=True):
        picture[row * side : (row + 1) * side, column * side : (column + 1) * side] = patch.reshape(side, side, 3)
    large = side * kernel
    places = [(x, y) for y in range(rows // kernel) for x in range(columns // kernel)]
    tiles = [picture[y * large : (y + 1) * large, x * large : (x + 1) * large].reshape(-1) for x, y in places]
    return np.stack(tiles), np.array(places)


@pytest.mark.parametrize("name", PICTURES)
def test_a_patch_is_nine_of_the_towers(name: str) -> None:
    small, large = read_image(MEDIA / name, IMAGE), read_image(MEDIA / name, UNIFIED_IMAGE)
    patches, positions = merged(small.patches, small.positions, 3)

    assert np.array_equal(large.patches, patches)
    assert np.array_equal(large.positions, positions)
    assert large.soft_tokens == small.soft_tokens == len(large.patches)


def test_frames_are_cut_as_pictures_are() -> None:
    small, large = read_video(MEDIA / "constant.mp4", VIDEO), read_video(MEDIA / "constant.mp4", UNIFIED_VIDEO)

    for index, (patches, positions) in enumerate(zip(small.patches, small.positions, strict=True)):
        expected = merged(patches, positions, 3)
        assert np.array_equal(large.patches[index], expected[0])
        assert np.array_equal(large.positions[index], expected[1])
    assert (large.labels, large.soft_tokens) == (small.labels, small.soft_tokens)


@given(length=st.integers(1, 5000))
def test_frames_of_samples_are_the_samples(length: int) -> None:
    samples = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)

    (clip,) = from_samples(samples, WAVEFORM)

    assert np.array_equal(clip.features.reshape(-1)[:length], samples)
    assert not clip.features.reshape(-1)[length:].any()
    assert clip.features.shape == (-(-length // 640), 640)
    assert clip.soft_tokens == len(clip.features) == clip.valid.sum()


def test_a_file_is_decoded_as_for_the_other_family() -> None:
    (clip,) = read_audio(MEDIA / "speech.wav", WAVEFORM)
    (mel,) = read_audio(MEDIA / "speech.wav", AUDIO)

    assert abs(clip.soft_tokens - mel.soft_tokens) <= 1
    assert clip.features.any()


def test_thirty_seconds_are_the_longest_clip() -> None:
    longest = np.zeros(480_000, np.float32)

    assert from_samples(longest, WAVEFORM)[0].soft_tokens == 750
    with pytest.raises(MediaError, match=r"30\.0 s of sound, and a clip holds 30\.0 s"):
        from_samples(np.zeros(480_001, np.float32), WAVEFORM)
    with pytest.warns(UserWarning, match="split into 2 clips"):
        assert len(from_samples(np.zeros(480_001, np.float32), WAVEFORM, split=True)) == 2


def test_an_empty_sound_is_refused() -> None:
    with pytest.raises(MediaError, match="0 samples"):
        from_samples(np.zeros(0, np.float32), WAVEFORM)
