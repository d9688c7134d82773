"""Small worlds with known contents, the same each time: a shape on a ground, beeps, a square that moves."""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ...loaders.media import Kind
from ...loaders.messages import Attachment

SIDE = 384
SAMPLE_RATE = 16_000
FRAMES = 3

Colour = tuple[int, int, int]
Place = tuple[float, float]
Samples = NDArray[np.float64]

COLOURS: Mapping[str, Colour] = {"red": (212, 32, 38), "green": (28, 160, 52), "blue": (32, 62, 212)}
GROUNDS: Mapping[str, Colour] = {"white": (245, 245, 245), "black": (12, 12, 12)}
# The centre of a shape: how far from the left, and from the top.
PLACES: Mapping[str, Place] = {
    "left": (0.25, 0.5), "right": (0.75, 0.5), "top": (0.5, 0.25), "bottom": (0.5, 0.75), "middle": (0.5, 0.5)
}  # fmt: skip
WAYS: Mapping[str, tuple[str, str]] = {
    "right": ("left", "right"), "left": ("right", "left"), "down": ("top", "bottom"), "up": ("bottom", "top")
}  # fmt: skip
PITCHES = {"high": 2400.0, "low": 400.0}


@dataclass(frozen=True)
class Picture:
    """A square or circle, half as wide as the picture."""

    shape: str
    colour: str
    place: str
    ground: str
    kind: Kind = "image"

    def frames(self) -> list[PIL.Image.Image]:
        """The picture."""
        return [draw(self.shape, COLOURS[self.colour], PLACES[self.place], GROUNDS[self.ground])]

    def attachment(self) -> Attachment:
        """The picture, for a prompt."""
        return Attachment(self.kind, self.frames()[0])


@dataclass(frozen=True)
class Clip:
    """A square that moves, in three frames of a second each."""

    colour: str
    way: str
    ground: str
    kind: Kind = "video"

    def frames(self) -> list[PIL.Image.Image]:
        """The pictures."""
        start, end = (np.array(PLACES[place]) for place in WAYS[self.way])
        centres = [start + (end - start) * along for along in np.linspace(0, 1, FRAMES)]
        return [draw("square", COLOURS[self.colour], (x, y), GROUNDS[self.ground]) for x, y in centres]

    def attachment(self) -> Attachment:
        """The clip, for a prompt."""
        return Attachment(self.kind, mp4(self.frames()))


@dataclass(frozen=True)
class Beeps:
    """Short tones with silence between them."""

    count: int
    pitch: str
    kind: Kind = "audio"

    def samples(self) -> Samples:
        """From -1 to 1."""
        return beeps(self.count, PITCHES[self.pitch])

    def attachment(self) -> Attachment:
        """The sound, for a prompt."""
        return Attachment(self.kind, wav(self.samples()))


World = Picture | Clip | Beeps


def draw(shape: str, colour: Colour, centre: Place, ground: Colour) -> PIL.Image.Image:
    """A picture of one shape."""
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[:] = ground
    y, x = np.ogrid[:SIDE, :SIDE]
    across, down = (2 * np.abs(axis - place * SIDE) for axis, place in ((x, centre[0]), (y, centre[1])))
    circle = across**2 + down**2 < (SIDE / 2) ** 2
    pixels[circle if shape == "circle" else (across < SIDE / 2) & (down < SIDE / 2)] = colour
    return PIL.Image.fromarray(pixels)


def beeps(count: int, frequency: float) -> Samples:
    """Tones of a tenth of a second with soft ends, and silence before, between and after them."""
    length = SAMPLE_RATE // 10
    time = np.arange(length)
    ramp = np.minimum(1, np.minimum(time, time[::-1]) / 80)
    tone = 0.45 * ramp * np.sin(2 * np.pi * frequency / SAMPLE_RATE * time)
    return np.concatenate([np.zeros(length // 2), np.tile(np.concatenate([tone, np.zeros(length * 7 // 5)]), count)])


def wav(samples: Samples) -> bytes:
    """A sound file of 16 bits, mono, of samples from -1 to 1."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def mp4(frames: Sequence[PIL.Image.Image]) -> bytes:
    """A clip of one frame a second, without loss."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264rgb", rate=1, options={"qp": "0", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()
