"""Clips: which frames, when, what is in them, and what is wrong with files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from g4convert.loaders.media import Video, read_image, read_video
from g4convert.loaders.media.video import frame_indices, label
from g4convert.schemas.errors import MediaError, UsageError
from g4convert.tests.loaders.media.samples import IMAGE, MEDIA, VIDEO, goldens, one_line
from g4convert.tests.media.make_media import CORNERS, VARIABLE, clip, encoded, picture, shade, turned
from hypothesis import given
from hypothesis import strategies as st

CONSTANT, UNEVEN = MEDIA / "constant.mp4", MEDIA / "variable.mp4"


def shades(video: Video) -> list[int]:
    """The grey of each frame, to the nearest number's."""
    greys = video.patches.mean(axis=(1, 2)) * 255
    return [int(np.abs(np.array([shade(number) for number in range(50)]) - grey).argmin()) for grey in greys]


@pytest.mark.parametrize("name", goldens("indices"))
def test_frames_and_index_timestamps_are_transformers(name: str) -> None:
    video = read_video(MEDIA / name, replace(VIDEO, num_frames=6), timestamps="index")

    assert np.array_equal(video.indices, goldens("indices")[name])
    assert video.timestamps == tuple(goldens("timestamps")[name])
    assert shades(video) == video.indices.tolist()


def test_true_timestamps_are_those_of_the_file() -> None:
    video = read_video(UNEVEN, VIDEO)

    assert video.timestamps == pytest.approx([time / 1000 for time in VARIABLE], abs=1e-6)
    assert video.labels == tuple(f"{time // 60000:02d}:{time // 1000 % 60:02d}" for time in VARIABLE)
    assert video.labels != read_video(UNEVEN, VIDEO, timestamps="index").labels


def test_on_a_constant_rate_both_agree() -> None:
    true, index = (read_video(CONSTANT, VIDEO, timestamps=kind) for kind in ("true", "index"))

    assert true.timestamps == pytest.approx(index.timestamps, abs=1e-9)
    assert true.labels == index.labels


def test_arrays() -> None:
    video = read_video(CONSTANT, VIDEO)

    assert video.patches.dtype == np.float32
    assert video.patches.shape == (32, video.soft_tokens * 9, 768)
    assert video.positions.shape == (32, video.soft_tokens * 9, 2)
    assert video.soft_tokens <= VIDEO.max_soft_tokens == 70
    assert len(video.timestamps) == len(video.labels) == 32


@pytest.mark.parametrize(("seconds", "expected"), [(0, "00:00"), (59.999, "00:59"), (60, "01:00"), (3661.5, "61:01")])
def test_labels(seconds: float, expected: str) -> None:
    assert label(seconds) == expected


@given(st.integers(1, 5000), st.integers(1, 64))
def test_indices_rise_and_begin_with_the_first(total: int, count: int) -> None:
    indices = frame_indices(total, 24.0, replace(VIDEO, num_frames=count))

    assert len(indices) == min(total, count)
    assert indices[0] == 0
    assert (np.diff(indices) >= 1).all()
    assert indices[-1] < total


def test_the_rule_is_not_linspace() -> None:
    ours = frame_indices(48, 24.0, replace(VIDEO, num_frames=6))

    assert ours.tolist() == goldens("indices")["constant.mp4"].tolist() == [0, 8, 16, 24, 32, 40]
    assert ours.tolist() != np.linspace(0, 47, 6, dtype=int).tolist()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"fps": 2}, 4),
        ({"fps": 0.1}, 1),
        ({"fps": 24}, 32),
        ({"fps": 24, "max_frames": 100}, 48),
        ({"fps": 1000, "max_frames": 100}, 48),
        ({"max_frames": 5}, 5),
        ({"max_frames": 100}, 32),
        ({"max_frames": 1}, 1),
    ],
    ids=str,
)
def test_how_many_frames(options: dict[str, Any], count: int) -> None:
    video = read_video(CONSTANT, VIDEO, **options)

    assert len(video.patches) == count
    assert shades(video) == video.indices.tolist()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_clip_with_fewer_frames_gives_all_it_has(count: int) -> None:
    assert read_video(clip(count), VIDEO).indices.tolist() == list(range(count))


def test_without_sampling_every_frame_is_taken() -> None:
    every = replace(VIDEO, do_sample_frames=False)

    assert len(read_video(CONSTANT, every).patches) == 48
    assert len(read_video(CONSTANT, every, max_frames=7).patches) == 7


@pytest.mark.parametrize(
    ("form", "codec"), [("matroska", "libx264"), ("avi", "mpeg4"), ("mpegts", "libx264"), ("webm", "libvpx-vp9")]
)
def test_containers(form: str, codec: str) -> None:
    """Matroska and transport streams do not say how many frames they have, and the latter's clock starts anywhere."""
    video = read_video(clip(30, form, codec), replace(VIDEO, num_frames=10))

    assert video.indices.tolist() == list(range(0, 30, 3))
    assert np.abs(shades(video) - video.indices).max() <= 1  # some codecs are coarse
    assert video.timestamps == pytest.approx([index / 24 for index in video.indices], abs=1e-3)


def test_a_frame_is_read_like_a_picture() -> None:
    source = encoded(picture(96, 64), "GIF")
    video = read_video(source, VIDEO)

    assert np.array_equal(video.patches[0], read_image(source, IMAGE, soft_tokens=70).patches)


def test_a_clip_that_was_filmed_lying_down_stands_up() -> None:
    video = read_video(MEDIA / "turned.mp4", VIDEO)
    last = video.positions[0].max(axis=0)
    colours = []
    for place in ((0, 0), (last[0], 0), (0, last[1]), (last[0], last[1])):
        (index,) = np.flatnonzero((video.positions[0] == place).all(axis=1))
        colours.append(video.patches[0, index].reshape(16, 16, 3)[8, 8] * 255)

    assert last[0] > last[1]  # wide, as the picture is
    assert np.abs(np.array(colours) - CORNERS).max() < 40


def test_a_bare_stream_has_times_by_index_only() -> None:
    assert len(read_video(MEDIA / "untimed.h264", VIDEO, timestamps="index").patches) == 8


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"fps": 0}, "cannot be read at 0 frames a second"),
        ({"fps": float("nan")}, "cannot be read at nan"),
        ({"max_frames": 0}, "cannot have 0 frames"),
        ({"timestamps": "wall"}, "choose one of true, index"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        read_video(CONSTANT, VIDEO, **options)


def test_a_rate_that_is_not_known_is_named() -> None:
    with pytest.raises(MediaError, match="does not say its frame rate"):
        frame_indices(5, None, VIDEO, fps=1)


def early_index(data: bytes) -> bytes:
    """An MP4 with its index in front, as files on the web have it; its chunk offsets move with it."""
    boxes, position = {}, 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        boxes[data[position + 4 : position + 8]] = data[position : position + size]
        position += size
    index = bytearray(boxes[b"moov"])
    offsets = index.index(b"stco") + 8
    for entry in range(int.from_bytes(index[offsets : offsets + 4], "big")):
        at = slice(offsets + 4 + 4 * entry, offsets + 8 + 4 * entry)
        index[at] = (int.from_bytes(index[at], "big") + len(index)).to_bytes(4, "big")
    rest = b"".join(box for name, box in boxes.items() if name not in (b"moov", b"ftyp"))
    return boxes[b"ftyp"] + bytes(index) + rest


def test_an_index_in_front_is_read() -> None:
    assert len(read_video(early_index(CONSTANT.read_bytes()), VIDEO).patches) == 32


MP4, EARLY = CONSTANT.read_bytes(), early_index(CONSTANT.read_bytes())
MKV = clip(48, "matroska", size=(320, 240))
BAD = {
    "empty.mp4": (b"", "the file is empty"),
    "text.mp4": (b"this is not a clip " * 50, "cannot be decoded as video"),
    "picture.mp4": ((MEDIA / "picture.png").read_bytes(), "is a picture, not a video"),
    "photo.mp4": ((MEDIA / "turned.jpg").read_bytes(), "is a picture, not a video"),
    "sound.mp4": ((MEDIA / "speech.wav").read_bytes(), "has no video stream"),
    "cut.mp4": (MP4[: len(MP4) // 2], "cannot be decoded as video"),
    "cut-early.mp4": (EARLY[: len(EARLY) - 500], "is cut off: 3. frames, and its header says 48|is cut off"),
    "cut.mkv": (MKV[: len(MKV) // 2], "is cut off: it ends after|cannot be decoded"),
    "untimed.mp4": ((MEDIA / "untimed.h264").read_bytes(), "its frames have no timestamps"),
    "frameless.mp4": (turned(clip(1)).replace(b"vide", b"soun"), "has no video stream|cannot be decoded"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path, (data, what) = tmp_path / name, BAD[name]
    path.write_bytes(data)

    with pytest.raises(MediaError, match=what) as caught:
        read_video(path, VIDEO)
    one_line(caught, path)
