"""Make the media of this folder: `python -m g4convert.tests.media.make_media`.

Everything is drawn or computed here. Encoders differ between FFmpeg versions, so a new run may give other bytes; the
tests depend on none of them. `wav`, `clip` and the signals serve tests that need a file of their own, too.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
RATE = 16000
MILLISECOND = Fraction(1, 1000)
# When the frames of the clip with a variable rate are shown, in milliseconds.
VARIABLE = (0, 40, 80, 1000, 1040, 2500, 2540, 2580, 2620, 61000, 61040, 125000)
# Corners of a picture, so that one that is turned or mirrored is told from the original.
CORNERS = ((220, 30, 30), (30, 200, 30), (30, 30, 210), (240, 220, 40))

Samples = NDArray[np.float32]


def silence(count: int) -> Samples:
    return np.zeros(count, np.float32)


def noise(count: int) -> Samples:
    return (np.random.default_rng(7).standard_normal(count) * 0.1).astype(np.float32)


def sweep(count: int) -> Samples:
    """From 50 Hz to 7.9 kHz."""
    time = np.arange(count) / RATE
    slope = (7900 - 50) / max(count, 1) * RATE
    return (0.8 * np.sin(2 * np.pi * (50 * time + slope / 2 * time**2))).astype(np.float32)


def speech_like(count: int) -> Samples:
    """Harmonics of a gliding voice under two formants, in syllables."""
    time = np.arange(count) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * time)) / RATE
    weights = [
        np.exp(-((120 * n - 500) ** 2) / 1e5) + 0.5 * np.exp(-((120 * n - 1800) ** 2) / 3e5) for n in range(1, 30)
    ]
    voice = sum(weight * np.sin(n * pitch) for n, weight in enumerate(weights, 1))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0, 1)
    samples: Samples = (0.05 * voice * syllables).astype(np.float32)
    return samples


SIGNALS = {"silence": silence, "noise": noise, "sweep": sweep, "speech": speech_like}


def wav(samples: NDArray[Any], rate: int = RATE) -> bytes:
    """A 16-bit WAV of [n] or [n, channels] samples, -1 to 1."""
    levels = np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1 if levels.ndim == 1 else levels.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(levels.tobytes())
    return stream.getvalue()


def sound(samples: Samples, form: str, codec: str, rate: int = RATE, layout: str = "mono") -> bytes:
    """Encode [channels, n] samples."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=form, options={"fflags": "+bitexact"}) as container:
        track: Any = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), format="fltp", layout=layout)
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        fifo.write(frame)
        size = track.codec_context.frame_size or 1024
        while part := fifo.read(size, partial=True):
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    return stream.getvalue()


def shade(number: int) -> int:
    """The grey of a clip's frame, which tells the frames apart even after compression."""
    return 8 + number * 4 % 240


def clip(
    count: int,
    form: str = "mp4",
    codec: str = "libx264",
    *,
    rate: int = 24,
    times: Iterable[int] | None = None,
    size: tuple[int, int] = (96, 64),
    pixels: NDArray[np.uint8] | None = None,
) -> bytes:
    """A clip of grey frames, `shade` of their number; or of one picture.

    Args:
        count: frames.
        form: FFmpeg's name of the container.
        codec: the encoder.
        rate: frames a second.
        times: when each is shown, in milliseconds, instead of the rate.
        size: width and height.
        pixels: the picture, [height, width, 3].
    """
    width, height = size if pixels is None else pixels.shape[1::-1]
    stream = io.BytesIO()
    with av.open(stream, "w", format=form, options={"fflags": "+bitexact"}) as container:
        track: Any = container.add_stream(codec, rate=rate, options={"threads": "1"})
        track.width, track.height = width, height
        track.pix_fmt = "yuv420p"
        track.codec_context.max_b_frames = 0
        if times is not None:
            track.codec_context.time_base = MILLISECOND
        for number, time in enumerate(times if times is not None else range(count)):
            grey = np.full((height, width, 3), shade(number), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey if pixels is None else pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = time, MILLISECOND
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


# The matrix of an MP4 track: as it is, and a quarter turn to the right.
UPRIGHT = bytes.fromhex("00010000 00000000 00000000 00000000 00010000 00000000 00000000 00000000 40000000")
TURNED = bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000 00000000 00000000 00000000 40000000")


def turned(data: bytes) -> bytes:
    """An MP4 file whose track says that it is to be shown turned to the right, as a telephone's do."""
    track = data.index(UPRIGHT, data.index(b"tkhd"))
    return data[:track] + TURNED + data[track + len(TURNED) :]


def picture(width: int = 160, height: int = 120) -> Image.Image:
    """Four corners of different colours on a gradient."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    h, w = height // 4, width // 4
    for colour, place in zip(CORNERS, ((0, 0), (0, -w), (-h, 0), (-h, -w)), strict=True):
        rows, columns = (slice(start, start + length or None) for start, length in zip(place, (h, w), strict=True))
        pixels[rows, columns] = colour
    return Image.fromarray(pixels)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """A picture as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def transparent() -> Image.Image:
    """The picture, with its right half fading away."""
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.linspace(255, 0, image.width).astype(np.uint8), (image.height, 1))))
    return image


def media() -> dict[str, bytes]:
    """Every file of this folder."""
    stereo = np.stack([speech_like(44100), sweep(44100)])
    return {
        "picture.png": encoded(picture(), "PNG"),
        "transparent.png": encoded(transparent(), "PNG"),
        "palette.gif": encoded(picture().quantize(16), "GIF"),
        "turned.jpg": encoded(picture().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif(6), quality=92),
        "speech.wav": wav(speech_like(RATE)),
        "stereo-44k.mp3": sound(stereo, "mp3", "libmp3lame", 44100, "stereo"),
        "stereo-44k.flac": sound(stereo, "flac", "flac", 44100, "stereo"),
        "constant.mp4": clip(48),
        "variable.mp4": clip(len(VARIABLE), times=VARIABLE),
        "turned.mp4": turned(clip(2, pixels=np.asarray(picture().transpose(Image.Transpose.ROTATE_90)))),
        "untimed.h264": clip(8, "h264"),
    }


def main() -> None:
    """Write all of them."""
    for name, data in media().items():
        (HERE / name).write_bytes(data)


if __name__ == "__main__":
    main()
