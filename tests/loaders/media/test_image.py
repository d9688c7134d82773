"""Pictures: against goldens of transformers, sizes, formats, and what is wrong with files."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from g4convert.loaders.media import Image, ImageSettings, read_image
from g4convert.loaders.media.config import SOFT_TOKENS
from g4convert.loaders.media.image import target_size
from g4convert.schemas.errors import MediaError, UsageError
from g4convert.tests.loaders.media.samples import IMAGE, MEDIA, goldens, one_line
from g4convert.tests.media.make_media import CORNERS, encoded, exif, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

BUDGET, STEP = 70, 8


def differs(name: str, image: Image) -> bool:
    """Whether an image is not the golden one."""
    golden = (goldens("image")[name] / 255.0).astype(np.float32)
    return not np.array_equal(image.patches[::STEP], golden)


@pytest.mark.parametrize("name", goldens("image"))
def test_files_are_what_transformers_makes_of_them(name: str) -> None:
    image = read_image(MEDIA / name, IMAGE, soft_tokens=BUDGET)

    assert not differs(name, image)
    assert image.patches.dtype == np.float32
    assert np.array_equal(image.positions, goldens("positions")[name])
    assert image.soft_tokens == goldens("tokens")[name]


def test_path_bytes_and_open_picture_are_the_same() -> None:
    path = MEDIA / "transparent.png"
    images = [read_image(source, IMAGE) for source in (path, str(path), path.read_bytes(), Pillow.open(path))]

    assert len({image.patches.tobytes() for image in images}) == 1


def reversed_channels(data: bytes) -> Pillow.Image:
    return Pillow.fromarray(np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB"))[..., ::-1])


def on_black(data: bytes) -> Pillow.Image:
    layer = Pillow.open(io.BytesIO(data)).convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", layer.size, (0, 0, 0, 255)), layer)


def lying(data: bytes) -> Pillow.Image:
    found = Pillow.open(io.BytesIO(data))
    return Pillow.fromarray(np.asarray(found))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("picture.png", reversed_channels),
        ("transparent.png", on_black),
        ("transparent.png", lambda data: Pillow.open(io.BytesIO(data)).convert("RGB")),
        ("turned.jpg", lying),
    ],
    ids=["BGR", "on black", "alpha dropped", "EXIF ignored"],
)
def test_a_wrong_reading_would_be_seen(name: str, wrong: Callable[[bytes], Pillow.Image]) -> None:
    mutant = wrong((MEDIA / name).read_bytes())

    assert differs(name, read_image(mutant, IMAGE, soft_tokens=BUDGET))


@pytest.mark.parametrize(
    "changes",
    [{"resample": 0}, {"resample": 2}, {"do_rescale": False}, {"do_normalize": True, "image_mean": (0.5, 0.5, 0.5)}],
    ids=["nearest", "bilinear", "not rescaled", "normalized"],
)
def test_a_wrong_setting_would_be_seen(changes: dict[str, object]) -> None:
    assert differs("picture.png", read_image(MEDIA / "picture.png", replace(IMAGE, max_soft_tokens=70, **changes)))  # type: ignore[arg-type]


def corner(image: Image, settings: ImageSettings, column: int, row: int) -> tuple[int, ...]:
    """The colour at a corner, from the patch that its position says."""
    last = image.positions.max(axis=0)
    (index,) = np.flatnonzero((image.positions == (last[0] * column, last[1] * row)).all(axis=1))
    pixels = image.patches[index].reshape(settings.patch_size, settings.patch_size, 3)
    return tuple(np.round(pixels[8, 8] * 255).astype(int).tolist())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_stands_upright(orientation: int) -> None:
    turns = Pillow.Transpose
    # What a camera stores for each value, so that a viewer that obeys shows the original.
    stored = {2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE}
    stored |= {6: turns.ROTATE_90, 7: turns.TRANSVERSE, 8: turns.ROTATE_270}
    source = picture() if orientation == 1 else picture().transpose(stored[orientation])

    image = read_image(encoded(source, "PNG", exif=exif(orientation)), IMAGE)

    found = [corner(image, IMAGE, column, row) for row in (0, 1) for column in (0, 1)]
    assert np.abs(np.array(found) - CORNERS).max() <= 8


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "ICO", "JPEG2000"])
def test_formats(form: str) -> None:
    image = read_image(encoded(picture(128, 96), form), IMAGE)

    assert image.patches.shape == (image.soft_tokens * 9, 768)
    assert 0 <= image.patches.min() < image.patches.max() <= 1


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    eight = (ramp >> 8).astype(np.uint8)

    assert np.array_equal(
        read_image(encoded(Pillow.fromarray(ramp), "PNG"), IMAGE).patches,
        read_image(encoded(Pillow.fromarray(eight), "PNG"), IMAGE).patches,
    )


@given(st.integers(1, 10**7), st.integers(1, 10**7), st.sampled_from(SOFT_TOKENS))
def test_target_sizes_are_multiples_within_the_budget(height: int, width: int, budget: int) -> None:
    rows, columns = (side / 48 for side in target_size(height, width, replace(IMAGE, max_soft_tokens=budget)))

    assert rows == int(rows) >= 1
    assert columns == int(columns) >= 1
    assert rows * columns <= budget


@pytest.mark.parametrize(
    ("size", "target", "tokens"),
    [
        ((1, 1), (768, 768), 256),
        ((20_000, 10), (13_440, 48), 280),
        ((10, 20_000), (48, 13_440), 280),
        ((768, 768), (768, 768), 256),
        ((640, 480), (912, 672), 266),
        ((8000, 20), (13_440, 48), 280),
    ],
)
def test_sizes(size: tuple[int, int], target: tuple[int, int], tokens: int) -> None:
    image = read_image(Pillow.new("RGB", size, (9, 8, 7)), IMAGE)

    assert target_size(size[1], size[0], IMAGE) == target[::-1]
    assert image.soft_tokens == tokens
    assert tuple((image.positions.max(axis=0) + 1) * 16) == target


@pytest.mark.parametrize("budget", SOFT_TOKENS)
def test_budgets(budget: int) -> None:
    image = read_image(picture(), IMAGE, soft_tokens=budget)

    assert budget * 0.8 < image.soft_tokens <= budget
    assert len(image.patches) == len(image.positions) == image.soft_tokens * 9


def test_another_budget_is_refused() -> None:
    with pytest.raises(UsageError, match="100 tokens at most; choose one of 70, 140, 280, 560, 1120"):
        read_image(picture(), IMAGE, soft_tokens=100)


def test_without_resizing_a_picture_must_fit() -> None:
    fixed = replace(IMAGE, do_resize=False)

    assert read_image(picture(96, 48), fixed).soft_tokens == 2
    for size in ((100, 48), (48 * 20, 48 * 20)):
        with pytest.raises(MediaError, match="do_resize is false"):
            read_image(picture(*size), fixed)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size and holds no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [
        (len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) for chunk in (head, b"IDAT", b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


BAD = {
    "empty.png": (b"", "the file is empty"),
    "text.png": (b"not a picture at all", "is not a picture"),
    "clip.png": ((MEDIA / "constant.mp4").read_bytes(), "is not a picture"),
    "cut.png": ((MEDIA / "picture.png").read_bytes()[:300], "cannot be decoded"),
    "cut.jpg": ((MEDIA / "turned.jpg").read_bytes()[:1500], "cannot be decoded"),
    "large.png": (png_header(10_000, 9_000), "more than 89478485 pixels"),
    "huge.png": (png_header(100_000, 100_000), "more than 89478485 pixels"),
    "flat.png": (png_header(0, 5), "is not a picture|cannot be decoded|no pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path, (data, what) = tmp_path / name, BAD[name]
    path.write_bytes(data)

    with pytest.raises(MediaError, match=what) as caught:
        read_image(path, IMAGE)
    one_line(caught, path)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(MediaError, match="the picture is 0 x 5: it has no pixels"):
        read_image(Pillow.new("RGB", (0, 5)), IMAGE)


@pytest.mark.parametrize("samples", [np.array([[0.0, 1.0]]), np.array([[0.0, 300.0]]), np.array([[-1.0, 5.0]])])
def test_wide_samples_that_would_be_clipped_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(MediaError, match="not from 0 to 255"):
        read_image(Pillow.fromarray(samples.astype(np.float32)), IMAGE)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(MediaError, match="no regular file"):
        read_image(pipe, IMAGE)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "none.png", "there is no such file"), (tmp_path, "cannot be opened")):
        with pytest.raises(MediaError, match=what) as caught:
            read_image(path, IMAGE)
        one_line(caught, path)
