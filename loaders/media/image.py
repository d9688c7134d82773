"""A picture -> patches and their positions, bit for bit as transformers' `Gemma4ImageProcessorPil` makes them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from ...schemas.errors import MediaError, UsageError
from .config import SOFT_TOKENS, ImageSettings
from .source import Source, name_of, opened

ORIENTATION = 0x0112
"""The EXIF tag."""

WHITE = (255, 255, 255, 255)


@dataclass(frozen=True)
class Image:
    """A picture as the network takes it.

    Attributes:
        patches: [N, 3 * patch_size**2] float32; rows of pixels from the top left, the three channels side by side.
        positions: [N, 2] int32, the patch's column and row.
        soft_tokens: places that the picture takes in the prompt.
    """

    patches: NDArray[np.float32]
    positions: NDArray[np.int32]
    soft_tokens: int


def read_image(source: Source | PIL.Image.Image, settings: ImageSettings, *, soft_tokens: int | None = None) -> Image:
    """Read a picture of any format that Pillow knows; of an animation, the first frame.

    Args:
        source: a path, the bytes of a file, or an open picture.
        settings: the checkpoint's.
        soft_tokens: another budget than the checkpoint's: 70, 140, 280, 560 or 1120.

    Raises:
        MediaError: the picture cannot be read, has no pixels, or too many.
        UsageError: there is no such budget.
    """
    if soft_tokens is not None:
        settings = replace(settings, max_soft_tokens=checked_budget(soft_tokens))
    with _faults(name_of(source)):
        if isinstance(source, PIL.Image.Image):
            picture = to_rgb(source)
        else:
            with opened(source) as stream, PIL.Image.open(stream) as file:
                picture = to_rgb(file)
    return from_rgb(picture, settings, name_of(source))


def checked_budget(soft_tokens: int) -> int:
    """A budget that Gemma 4 was trained with.

    Raises:
        UsageError: it is another one.
    """
    if soft_tokens not in SOFT_TOKENS:
        allowed = ", ".join(map(str, SOFT_TOKENS))
        raise UsageError(f"a picture cannot take {soft_tokens} tokens at most", fix=f"choose one of {allowed}")
    return soft_tokens


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """Turn whatever Pillow's readers raise into a MediaError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            yield
    except MediaError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise _too_large(name) from None
    except PIL.UnidentifiedImageError:
        raise MediaError("is not a picture that Pillow can read", where=name, fix="convert it to PNG or JPEG") from None
    except Exception as error:  # each of Pillow's readers has faults of its own
        raise MediaError(
            f"cannot be decoded as a picture: {str(error) or type(error).__name__}",
            where=name,
            fix="it is damaged or cut off; fetch or convert it again",
        ) from None


def _too_large(name: str) -> MediaError:
    return MediaError(
        f"the picture has more than {PIL.Image.MAX_IMAGE_PIXELS} pixels, Pillow's limit",
        where=name,
        fix="make it smaller",
    )


def to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Upright RGB; what is transparent becomes white, as in transformers' `convert_to_rgb`.

    Samples of more than 8 bits are an exception: Pillow would clip them, and transformers does. 16-bit ones are scaled
    here, wider ones refused where clipping would change them.
    """
    if picture.getexif().get(ORIENTATION, 1) != 1:
        picture = PIL.ImageOps.exif_transpose(picture)
    picture.load()
    if picture.mode.startswith("I;16"):
        return PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    _check_range(picture)
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        layer = picture.convert("RGBA")
        picture = PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, WHITE), layer)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _check_range(picture: PIL.Image.Image) -> None:
    if picture.mode not in ("I", "F") or 0 in picture.size:
        return
    samples = np.asarray(picture)
    low, high = samples.min(), samples.max()
    fractions = picture.mode == "F" and 0 < high <= 1
    if fractions or not (low >= 0 and high <= 255):
        raise ValueError(f"its samples go from {low} to {high}, not from 0 to 255")


def from_rgb(picture: PIL.Image.Image, settings: ImageSettings, name: str) -> Image:
    """Resize an RGB picture and cut it into patches.

    Raises:
        MediaError: it has no pixels or too many, or does not fit and may not be resized.
    """
    width, height = picture.size
    if 0 in picture.size:
        raise MediaError(f"the picture is {width} x {height}: it has no pixels", where=name, fix="give another")
    if PIL.Image.MAX_IMAGE_PIXELS is not None and width * height > PIL.Image.MAX_IMAGE_PIXELS:
        raise _too_large(name)
    if settings.do_resize:
        height, width = target_size(height, width, settings)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), resample=PIL.Image.Resampling(settings.resample))
    soft_tokens = (height // settings.side_step) * (width // settings.side_step)
    if height % settings.side_step or width % settings.side_step or soft_tokens > settings.max_soft_tokens:
        raise MediaError(
            f"the picture is {width} x {height}, and the checkpoint's do_resize is false",
            where=name,
            fix=f"make its sides multiples of {settings.side_step} and its soft tokens "
            f"{settings.max_soft_tokens} at most",
        )
    pixels = np.asarray(picture)
    return Image(patchify(pixels, settings), grid(height, width, settings.patch_size), soft_tokens)


def target_size(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """The largest size of about the same shape within the budget, both sides multiples of `side_step`.

    After transformers' `get_aspect_ratio_preserving_size`, in the same float arithmetic. A side that would round to
    nothing becomes one step, and the other one follows from the whole-numbered ratio of the sides.

    Returns:
        Height and width in pixels.
    """
    step = settings.side_step
    longest = settings.max_soft_tokens * step
    factor = math.sqrt(settings.max_soft_tokens * step**2 / (height * width))
    rows, columns = math.floor(factor * height / step), math.floor(factor * width / step)
    if rows == 0:
        return step, min(width // height * step, longest)
    if columns == 0:
        return min(height // width * step, longest), step
    return rows * step, columns * step


def patchify(pixels: NDArray[np.uint8], settings: ImageSettings) -> NDArray[np.float32]:
    """Cut a picture into patches and rescale them.

    Args:
        pixels: [height, width, 3] bytes, sides multiples of the patch size.
        settings: the patch size, and how to rescale.

    Returns:
        [N, 3 * patch_size**2].
    """
    side = settings.patch_size
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    tiles = pixels.reshape(rows, side, columns, side, 3).swapaxes(1, 2)  # rows, columns, side, side, 3
    return _rescale(tiles, settings).reshape(rows * columns, 3 * side**2)


def _rescale(pixels: NDArray[np.uint8], settings: ImageSettings) -> NDArray[np.float32]:
    """Look the value of each byte up; `pixels` has the channels last."""
    levels = _levels(settings)
    if (levels == levels[:1]).all():
        same: NDArray[np.float32] = levels[0].take(pixels)
        return same
    return np.stack([levels[channel].take(pixels[..., channel]) for channel in range(3)], axis=-1)


@lru_cache(maxsize=8)
def _levels(settings: ImageSettings) -> NDArray[np.float32]:
    """[3, 256]: what each byte becomes in each channel, rescaled in float64 and normalised in float32."""
    scale = settings.rescale_factor if settings.do_rescale else 1.0
    rescaled = (np.arange(256, dtype=np.float64) * scale).astype(np.float32)
    if not settings.do_normalize:
        return np.tile(rescaled, (3, 1))
    mean, std = (np.array(values, np.float32)[:, None] for values in (settings.image_mean, settings.image_std))
    levels: NDArray[np.float32] = (rescaled - mean) / std
    return levels


def grid(height: int, width: int, patch_size: int) -> NDArray[np.int32]:
    """[N, 2]: column and row of each patch, row by row."""
    rows, columns = height // patch_size, width // patch_size
    positions: NDArray[Any] = np.indices((rows, columns), dtype=np.int32)[::-1]  # 2 (x, y), rows, columns
    return np.ascontiguousarray(positions.reshape(2, -1).T)
