"""Media in files that give back exactly what was written: PNG, 16-bit WAV, and lossless H.264 (RGB) in MP4."""

import wave
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tasks import SAMPLE_RATE, Medium

SUFFIXES = {"image": ".png", "audio": ".wav", "video": ".mp4"}
STEMS = {"image": "picture", "audio": "sound", "video": "clip"}
FULL_SCALE = 32768


def _write_sound(path: Path, sound: NDArray) -> None:
    levels = np.clip(np.round(sound * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(levels.tobytes())


def _write_clip(path: Path, clip: NDArray) -> None:
    """Write one frame a second."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264rgb", rate=1, options={"qp": "0", "threads": "1"})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "rgb24"
        for picture in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def write(path: Path, medium: Medium) -> None:
    """Write the medium."""
    if medium.kind == "image":
        Image.fromarray(medium.data).save(path, optimize=True)
    elif medium.kind == "audio":
        _write_sound(path, medium.data)
    else:
        _write_clip(path, medium.data)


def read(path: Path, kind: str) -> Medium:
    """Return what the file holds."""
    if kind == "image":
        return Medium(kind, np.array(Image.open(path).convert("RGB")))
    if kind == "audio":
        with wave.open(str(path), "rb") as file:
            levels = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return Medium(kind, (levels / FULL_SCALE).astype(np.float32))
    with av.open(str(path)) as container:
        return Medium(kind, np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
